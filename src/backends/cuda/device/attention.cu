// attention on the ordinary cores, in float: any size. A block takes WARPS * ROWS queries of a head, a warp ROWS of them; keys and values
// pass through shared memory 32 at a time. For scores a lane has a key, for sums it has columns. ELEMENT: q, k, v and y.
#include "attention.cuh"

constexpr int kKeys = 32, kKeyStride = HEAD_DIM | 1, kColumns = (VALUE_DIM + 31) / 32;
using PerRow = Vec<float, ROWS>;

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    attention(const ELEMENT* q, const ELEMENT* k, const ELEMENT* v, const MASK* mask, ELEMENT* __restrict__ y, AttentionArgs a) {
  extern __shared__ PerRow attention_shared[];
  PerRow* const queries = attention_shared + threadIdx.x / 32 * HEAD_DIM;  // [WARPS][HEAD_DIM]
  PerRow* const weights = attention_shared + WARPS * HEAD_DIM + threadIdx.x / 32 * kKeys;
  float* const keys = reinterpret_cast<float*>(attention_shared + WARPS * (HEAD_DIM + kKeys));
  float* const values = keys + kKeys * kKeyStride;
  wait_for_previous();
  allow_next();
  const int lane = threadIdx.x % 32, block_first = blockIdx.x * WARPS * ROWS, first = block_first + threadIdx.x / 32 * ROWS;
  const int head = blockIdx.y, kv_head = head / a.group;
  const int64_t batch = blockIdx.z;
  k += batch * a.k.batch + kv_head * a.k.head;
  v += batch * a.v.batch + kv_head * a.v.head;
  mask += batch * a.mask[0] + head * a.mask[1];
  for (int d = lane; d < HEAD_DIM; d += 32) {
    PerRow column;
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
      column.at[r] = first + r < a.q_length ? to_float(q[batch * a.q.batch + head * a.q.head + int64_t(first + r) * a.q.row + d]) : 0.f;
    queries[d] = column;
  }
  float largest[ROWS], total[ROWS], sum[ROWS][kColumns] = {};
#pragma unroll
  for (int r = 0; r < ROWS; ++r) largest[r] = Max::identity(), total[r] = 0;
  const int end = a.visible(min(block_first + WARPS * ROWS, a.q_length) - 1);
  for (int base = 0; base < end; base += kKeys) {
    __syncthreads();
    for (int e = threadIdx.x; e < kKeys * HEAD_DIM; e += WARPS * 32) {
      const int j = e / HEAD_DIM, d = e % HEAD_DIM;
      keys[j * kKeyStride + d] = base + j < a.k_length ? to_float(k[int64_t(base + j) * a.k.row + d]) : 0.f;
    }
    for (int e = threadIdx.x; e < kKeys * VALUE_DIM; e += WARPS * 32) {
      const int j = e / VALUE_DIM, d = e % VALUE_DIM;
      values[e] = base + j < a.k_length ? to_float(v[int64_t(base + j) * a.v.row + d]) : 0.f;
    }
    __syncthreads();
    const int key = base + lane;
    float score[ROWS] = {};
#pragma unroll 8
    for (int d = 0; d < HEAD_DIM; ++d) {
      const float x = keys[lane * kKeyStride + d];
      const PerRow column = queries[d];
#pragma unroll
      for (int r = 0; r < ROWS; ++r) score[r] += column.at[r] * x;
    }
    PerRow weight;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const int i = min(first + r, a.q_length - 1);
      const float x = key < a.visible(i) ? a.finish(score[r], mask + i * a.mask[2], key) : Max::identity();
      const float highest = fmaxf(largest[r], warp_reduce<Max>(x)), shift = highest == Max::identity() ? 0.f : highest;
      const float keep = expf(largest[r] - shift);
      weight.at[r] = expf(x - shift);
      largest[r] = highest;
      total[r] = total[r] * keep + weight.at[r];  // of this lane's keys
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sum[r][c] *= keep;
    }
    weights[lane] = weight;
    __syncwarp();
#pragma unroll 4
    for (int j = 0; j < kKeys; ++j) {
      const PerRow w = weights[j];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int d = c * 32 + lane;
        const float x = VALUE_DIM % 32 == 0 || d < VALUE_DIM ? values[j * VALUE_DIM + d] : 0.f;
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
          if (w.at[r] != 0.f) sum[r][c] += w.at[r] * x;  // an infinite value that is masked stays out
      }
    }
    __syncwarp();
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const float all = warp_reduce<Sum>(total[r]), scale = all == 0.f ? 0.f : 1.f / all;
    if (first + r >= a.q_length) continue;
    ELEMENT* const to = y + batch * a.y.batch + head * a.y.head + int64_t(first + r) * a.y.row;
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
      if (c * 32 + lane < VALUE_DIM) to[c * 32 + lane] = from_float<ELEMENT>(sum[r][c] * scale);
  }
}
