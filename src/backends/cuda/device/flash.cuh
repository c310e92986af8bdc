// Attention with tensor cores, the scores never in memory (FlashAttention-2, arXiv:2307.08691): a block takes WARPS_M * 16 query rows,
// walks over tiles of TILE_K keys and values that cp.async brings two tiles deep, and keeps sums relative to the largest score so far.
// WARPS_N warps share the keys of a tile and add up at the end: for few rows.
//   ELEMENT     f16 or bf16: what is multiplied; SOURCE: how keys and values are stored (ELEMENT, or f8e4m3 with ELEMENT f16)
//   ACTIVATION  element type of queries and output
//   HEAD_DIM (of q and k), VALUE_DIM: multiples of 8
//   NATURAL     scores are finished (softcap, mask) before exp; else one multiply-add scales them on the way
#pragma once
#include "copy_chunk.cuh"

constexpr int kThreads = WARPS_M * WARPS_N * 32, kTileRows = WARPS_M * 16, kWarpKeys = TILE_K / WARPS_N;
constexpr int kDim = (HEAD_DIM + 15) / 16 * 16, kValueDim = (VALUE_DIM + 15) / 16 * 16;
// Bytes a row of shared memory; 16 more than the row, so that the eight rows of a matrix lie in different banks.
constexpr int kKeyStride = kDim * 2 + 16, kValueStride = kValueDim * 2 + 16;
constexpr int kQueryBytes = kTileRows * kKeyStride, kKeyBytes = TILE_K * kKeyStride, kStageBytes = kKeyBytes + TILE_K * kValueStride;
constexpr bool kQueryInRegisters = kDim <= 128;
static_assert(kWarpKeys % 16 == 0);

// What a block works on. Rows are the block's own, [0, kTileRows); keys are numbered within the sequence.
//   int begin, end                          keys that any row sees
//   const ACTIVATION* query(row)            null: no such row; any_query(): some address
//   ACTIVATION* output(row)                 of a row that is there
//   bool find(key, k, v)                    where a key and its value are
//   int row_begin(row), row_end(row)        keys that a row sees
//   bool sees_all(first, last)              every row sees all keys [first, last)
//   float finish(x, row_index, key)         a natural score: from q k to what exp takes; row_index 0 or 1: thread's rows
//   float scale, v_scale
template <class Problem>
DEVICE void flash(Problem& p) {
  extern __shared__ uint4 flash_shared[];
  const uint32_t queries = shared_address(flash_shared), stages = queries + kQueryBytes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
  const int first_tile = p.begin / TILE_K, tiles = p.end > p.begin ? (p.end + TILE_K - 1) / TILE_K - first_tile : 0;

  for (int e = threadIdx.x; e < kTileRows * (kDim / 8); e += kThreads) {
    const int row = e / (kDim / 8), chunk = e % (kDim / 8);
    const ACTIVATION* const from = p.query(row);
    const bool valid = from != nullptr && chunk * 8 < HEAD_DIM;
    copy_chunk(queries + row * kKeyStride + chunk * 16, valid ? from + chunk * 8 : p.any_query(), valid);
  }
  const auto load_tile = [&](int t) {
    const uint32_t keys = stages + t % 2 * kStageBytes, values = keys + kKeyBytes;
    constexpr int kChunks = (kDim > kValueDim ? kDim : kValueDim) / 8;
#pragma unroll 4
    for (int e = threadIdx.x; e < TILE_K * kChunks; e += kThreads) {
      const int row = e / kChunks, chunk = e % kChunks, key = (first_tile + t) * TILE_K + row;
      const SOURCE *k, *v;
      const bool valid = p.find(key, k, v);
      if (kDim == kValueDim || chunk < kDim / 8) {
        const bool inside = valid && chunk * 8 < HEAD_DIM;
        copy_chunk(keys + row * kKeyStride + chunk * 16, inside ? k + chunk * 8 : k, inside);
      }
      if (kDim == kValueDim || chunk < kValueDim / 8) {
        const bool inside = valid && chunk * 8 < VALUE_DIM;
        copy_chunk(values + row * kValueStride + chunk * 16, inside ? v + chunk * 8 : v, inside);
      }
    }
  };
  if (tiles > 0) load_tile(0);
  copy_async_commit();
  if (tiles > 1) load_tile(1);
  copy_async_commit();

  const uint32_t query_at = queries + (warp_m * 16 + lane % 16) * kKeyStride + lane / 16 * 16;
  uint32_t query[kQueryInRegisters ? kDim / 16 : 1][4];
  if constexpr (kQueryInRegisters) {
    copy_async_wait<1>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) load_matrices(query[k], query_at + k * 32);
  }
  // A thread has two rows of its warp's sixteen: lane / 4 and that plus 8.
  int row_begin[2], row_end[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = warp_m * 16 + lane / 4 + i * 8;
    row_begin[i] = p.row_begin(row), row_end[i] = p.row_end(row);
  }
  const float factor = NATURAL ? kLog2E : p.scale * kLog2E;
  float out[kValueDim / 8][4] = {}, largest[2] = {nothing(), nothing()}, total[2] = {0, 0};

  for (int t = 0; t < tiles; ++t) {
    copy_async_wait<1>();
    __syncthreads();
    const uint32_t keys = stages + t % 2 * kStageBytes + warp_n * kWarpKeys * kKeyStride;
    const uint32_t values = stages + t % 2 * kStageBytes + kKeyBytes + warp_n * kWarpKeys * kValueStride;
    const int first_key = (first_tile + t) * TILE_K + warp_n * kWarpKeys;
    float score[kWarpKeys / 8][4] = {};
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      uint32_t loaded[4];
      if constexpr (!kQueryInRegisters) load_matrices(loaded, query_at + k * 32);
      const uint32_t(&a)[4] = kQueryInRegisters ? query[k] : loaded;
#pragma unroll
      for (int n = 0; n < kWarpKeys / 16; ++n) {
        uint32_t b[4];
        load_matrices(b, keys + (n * 16 + lane / 16 * 8 + lane % 8) * kKeyStride + k * 32 + lane / 8 % 2 * 16);
        mma_16x8x16(ELEMENT{}, score[2 * n], a, b[0], b[1]);
        mma_16x8x16(ELEMENT{}, score[2 * n + 1], a, b[2], b[3]);
      }
    }
    if constexpr (NATURAL) {
#pragma unroll
      for (int n = 0; n < kWarpKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = first_key + n * 8 + lane % 4 * 2 + e % 2;
          const bool seen = key >= row_begin[e / 2] && key < row_end[e / 2];
          score[n][e] = seen ? p.finish(score[n][e], e / 2, key) : nothing();
        }
    } else if (!p.sees_all(first_key, first_key + kWarpKeys)) {
#pragma unroll
      for (int n = 0; n < kWarpKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = first_key + n * 8 + lane % 4 * 2 + e % 2;
          if (key < row_begin[e / 2] || key >= row_end[e / 2]) score[n][e] = nothing();
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float highest = largest[i];
#pragma unroll
      for (int n = 0; n < kWarpKeys / 8; ++n) highest = fmaxf(highest, fmaxf(score[n][2 * i], score[n][2 * i + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
      const float shift = finite_or_zero(highest), keep = exp2_fast((largest[i] - shift) * factor), offset = shift * factor;
      largest[i] = highest;
      total[i] *= keep;
#pragma unroll
      for (int n = 0; n < kWarpKeys / 8; ++n)
#pragma unroll
        for (int e = 2 * i; e < 2 * i + 2; ++e) {
          score[n][e] = exp2_fast(NATURAL ? (score[n][e] - shift) * factor : score[n][e] * factor - offset);
          total[i] += score[n][e];
        }
#pragma unroll
      for (int d = 0; d < kValueDim / 8; ++d) out[d][2 * i] *= keep, out[d][2 * i + 1] *= keep;
    }
#pragma unroll
    for (int k = 0; k < kWarpKeys / 16; ++k) {
      const uint32_t a[4] = {pack(ELEMENT{}, score[2 * k][0], score[2 * k][1]), pack(ELEMENT{}, score[2 * k][2], score[2 * k][3]),
                             pack(ELEMENT{}, score[2 * k + 1][0], score[2 * k + 1][1]),
                             pack(ELEMENT{}, score[2 * k + 1][2], score[2 * k + 1][3])};
#pragma unroll
      for (int d = 0; d < kValueDim / 16; ++d) {
        uint32_t b[4];
        load_matrices_transposed(b, values + (k * 16 + lane / 8 % 2 * 8 + lane % 8) * kValueStride + d * 32 + lane / 16 * 16);
        mma_16x8x16(ELEMENT{}, out[2 * d], a, b[0], b[1]);
        mma_16x8x16(ELEMENT{}, out[2 * d + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();
    if (t + 2 < tiles) load_tile(t + 2);
    copy_async_commit();
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    total[i] += __shfl_xor_sync(~0u, total[i], 1);
    total[i] += __shfl_xor_sync(~0u, total[i], 2);
  }
  if constexpr (WARPS_N == 1) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = warp_m * 16 + lane / 4 + i * 8;
      if (p.query(row) == nullptr) continue;
      ACTIVATION* const to = p.output(row);
      const float scale = total[i] == 0.f ? 0.f : p.v_scale / total[i];
#pragma unroll
      for (int d = 0; d < kValueDim / 8; ++d)
        if (d * 8 < VALUE_DIM)
          *reinterpret_cast<uint32_t*>(to + d * 8 + lane % 4 * 2) = pack(ACTIVATION{}, out[d][2 * i] * scale, out[d][2 * i + 1] * scale);
    }
  } else {
    // Sums [WARPS_N][kTileRows][kValueDim + 4], then states [WARPS_N][kTileRows], where the tiles were.
    constexpr int kStride = kValueDim + 4;
    copy_async_wait<0>();
    __syncthreads();
    float* const sums = reinterpret_cast<float*>(flash_shared);
    float2* const states = reinterpret_cast<float2*>(sums + WARPS_N * kTileRows * kStride);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = warp_n * kTileRows + warp_m * 16 + lane / 4 + i * 8;
      if (lane % 4 == 0) states[row] = float2{largest[i], total[i]};
#pragma unroll
      for (int d = 0; d < kValueDim / 8; ++d)
        *reinterpret_cast<float2*>(sums + row * kStride + d * 8 + lane % 4 * 2) = float2{out[d][2 * i], out[d][2 * i + 1]};
    }
    __syncthreads();
    for (int e = threadIdx.x; e < kTileRows * (VALUE_DIM / 2); e += kThreads) {
      const int row = e / (VALUE_DIM / 2), d = e % (VALUE_DIM / 2) * 2;
      if (p.query(row) == nullptr) continue;
      float highest = nothing(), all = 0, x = 0, y = 0;
#pragma unroll
      for (int w = 0; w < WARPS_N; ++w) highest = fmaxf(highest, states[w * kTileRows + row].x);
      const float shift = finite_or_zero(highest);
#pragma unroll
      for (int w = 0; w < WARPS_N; ++w) {
        const float2 state = states[w * kTileRows + row], part = *reinterpret_cast<float2*>(sums + (w * kTileRows + row) * kStride + d);
        const float weight = exp2_fast((state.x - shift) * factor);
        all += weight * state.y, x += weight * part.x, y += weight * part.y;
      }
      const float scale = all == 0.f ? 0.f : p.v_scale / all;
      *reinterpret_cast<uint32_t*>(p.output(row) + d) = pack(ACTIVATION{}, x * scale, y * scale);
    }
  }
}
