// paged_attention on the ordinary cores, for every type and size: a block takes GROUP query heads of one kv head for one row and one split
// of its tokens; LANES lanes share a token. ACTIVATION (q and y), CACHE: element types. HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE; VECTOR:
// elements a load, divides HEAD_DIM; GROUP; WARPS a block.
#include "paged_combine.cuh"

constexpr int kQueryHeads = HEADS / KV_HEADS, kGroups = (kQueryHeads + GROUP - 1) / GROUP;
constexpr int kVectors = HEAD_DIM / VECTOR, kPerLane = (kVectors + LANES - 1) / LANES;
constexpr int kTokensPerLoad = 32 / LANES, kUnroll = kPerLane > 1 ? 2 : 4, kTile = kTokensPerLoad * kUnroll;

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    paged_attention(const ACTIVATION* q, const CACHE* cache, const int32_t* tables, const int32_t* lengths, const int32_t* starts,
                    ACTIVATION* __restrict__ y, float* __restrict__ partial, int rows, int sequences, int blocks_per_seq, int num_blocks,
                    int splits, Score score, int window, float v_scale) {
  __shared__ float merged[WARPS][GROUP][HEAD_DIM];
  __shared__ float2 merged_state[WARPS][GROUP];
  wait_for_previous();
  allow_next();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = lane / LANES, share = lane % LANES;
  const int row = blockIdx.x / splits, split = blockIdx.x % splits;
  const int kv_head = blockIdx.y / kGroups, first_head = kv_head * kQueryHeads + blockIdx.y % kGroups * GROUP;
  const int heads = min(GROUP, (kv_head + 1) * kQueryHeads - first_head);
  StepRow r = step_row(starts, lengths, sequences, rows, int64_t(blocks_per_seq) * BLOCK_SIZE, window, row);
  take_split<WARPS * kTile>(r, split, splits);
  const int32_t* const table = tables + int64_t(r.sequence) * blocks_per_seq;

  float query[GROUP][kPerLane][VECTOR], sum[GROUP][kPerLane][VECTOR], largest[GROUP], total[GROUP];
#pragma unroll
  for (int h = 0; h < GROUP; ++h) {
    largest[h] = nothing(), total[h] = 0;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int v = j * LANES + share;
      Vec<ACTIVATION, VECTOR> raw{};
      if (v < kVectors && h < heads)
        raw = reinterpret_cast<const Vec<ACTIVATION, VECTOR>*>(q + (int64_t(row) * HEADS + first_head + h) * HEAD_DIM)[v];
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) query[h][j][i] = to_float(raw.at[i]), sum[h][j][i] = 0;
    }
  }
  for (int base = r.begin + warp * kTile; base < r.end; base += WARPS * kTile) {
    Vec<CACHE, VECTOR> key[kUnroll][kPerLane], value[kUnroll][kPerLane];
    bool seen[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int token = base + u * kTokensPerLoad + part;
      const int block = token < r.end ? table[token / BLOCK_SIZE] : -1;
      seen[u] = block >= 0 && block < num_blocks;
      const int64_t at = ((int64_t(block) * 2 * KV_HEADS + kv_head) * BLOCK_SIZE + token % BLOCK_SIZE) * HEAD_DIM;
      const auto* keys = reinterpret_cast<const Vec<CACHE, VECTOR>*>(cache + at);
      const auto* values = reinterpret_cast<const Vec<CACHE, VECTOR>*>(cache + at + int64_t(KV_HEADS) * BLOCK_SIZE * HEAD_DIM);
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        const int v = j * LANES + share;
        key[u][j] = {}, value[u][j] = {};
        if (seen[u] && v < kVectors) key[u][j] = keys[v], value[u][j] = values[v];
      }
    }
#pragma unroll
    for (int h = 0; h < GROUP; ++h) {
      float weight[kUnroll], highest = largest[h];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        float dot = 0;
#pragma unroll
        for (int j = 0; j < kPerLane; ++j)
#pragma unroll
          for (int i = 0; i < VECTOR; ++i) dot += query[h][j][i] * cached_to_float(key[u][j].at[i]);
#pragma unroll
        for (int offset = LANES / 2; offset > 0; offset /= 2) dot += __shfl_xor_sync(~0u, dot, offset);
        weight[u] = seen[u] ? score(dot) : nothing();
        highest = fmaxf(highest, weight[u]);
      }
      const float shift = finite_or_zero(highest), keep = exp2f(largest[h] - shift);
      largest[h] = highest;
      total[h] *= keep;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) weight[u] = exp2f(weight[u] - shift), total[h] += weight[u];
#pragma unroll
      for (int j = 0; j < kPerLane; ++j)
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
          float s = sum[h][j][i] * keep;
#pragma unroll
          for (int u = 0; u < kUnroll; ++u) s += weight[u] * cached_to_float(value[u][j].at[i]);
          sum[h][j][i] = s;
        }
    }
  }
  // The parts of a warp have seen different tokens, and so have the warps.
#pragma unroll
  for (int h = 0; h < GROUP; ++h) {
    float highest = largest[h];
#pragma unroll
    for (int offset = LANES; offset < 32; offset *= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, offset));
    const float keep = exp2f(largest[h] - finite_or_zero(highest));
    total[h] *= keep;
#pragma unroll
    for (int offset = LANES; offset < 32; offset *= 2) total[h] += __shfl_xor_sync(~0u, total[h], offset);
    if (lane == 0) merged_state[warp][h] = float2{highest, total[h]};
#pragma unroll
    for (int j = 0; j < kPerLane; ++j)
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) {
        float s = sum[h][j][i] * keep;
#pragma unroll
        for (int offset = LANES; offset < 32; offset *= 2) s += __shfl_xor_sync(~0u, s, offset);
        const int d = (j * LANES + share) * VECTOR + i;
        if (part == 0 && d < HEAD_DIM) merged[warp][h][d] = s;
      }
  }
  __syncthreads();
  for (int e = threadIdx.x; e < heads * HEAD_DIM; e += WARPS * 32) {
    const int h = e / HEAD_DIM, d = e % HEAD_DIM;
    float2 state[WARPS];
#pragma unroll
    for (int w = 0; w < WARPS; ++w) state[w] = merged_state[w][h];
    const float2 all = merge_states<WARPS>(state);
    float s = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) s += state[w].x * merged[w][h][d];  // the factor by now
    write_part(y, partial, rows, row, first_head + h, split, splits, d, s, all, v_scale);
  }
}
