// paged_attention with tensor cores for a row a sequence: a block takes up to HEAD_TILES * 8 query heads of one kv head for one row and one
// split of its tokens. Keys and values go from memory to registers in 16-byte loads that are already operands of mma, without shared
// memory: scores^T [16 tokens, 8 heads] = K Q^T and sums^T [16 dims, 8 heads] = V^T P^T, and the order in which an mma adds up its k, or
// names its rows, is ours to choose as long as both operands agree.
//   lane = 4 g + c. Of keys it loads 8 elements from 32 j + 8 c of tokens g and g + 8: for mma number 2 j its k are elements 0, 1 | 2, 3 of
//   these, for 2 j + 1 elements 4, 5 | 6, 7; queries are loaded alike. Of values it loads 8 elements from 64 j + 8 g of tokens 2 c, 2 c +
//   1, 2 c + 8, 2 c + 9: element pairs (2 i, 2 i + 1) are rows g and g + 8 of mma (j, i), and token pairs are its k.
// ACTIVATION (q and y), CACHE, ELEMENT (what is multiplied: the cache's type, f16 for f8e4m3). HEADS, KV_HEADS, HEAD_DIM (a multiple of 8),
// BLOCK_SIZE; HEAD_TILES; WARPS; UNROLL: tiles of 16 tokens that a warp has under way.
//
// SINGLES: instead of rows, of all sequences those with one new row, without splits; the grid has one more column than there are sequences.
// With SIDE_BY_SIDE such a kernel runs beside the one before it, which neither writes what it reads nor reads or writes what it writes, and
// whose blocks call allow_next() after their wait_for_previous(): then all that came before them is done when this one starts. One block
// waits, so that who waits for the end of this kernel waits for both.
#include "decode_sums.cuh"
#include "paged_combine.cuh"

constexpr int kGroup = HEADS / KV_HEADS, kBlockHeads = kGroup < 8 * HEAD_TILES ? kGroup : 8 * HEAD_TILES;
constexpr int kGroups = (kGroup + kBlockHeads - 1) / kBlockHeads;

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    paged_attention(const ACTIVATION* q, const CACHE* cache, const int32_t* tables, const int32_t* lengths, const int32_t* starts,
                    ACTIVATION* __restrict__ y, float* __restrict__ partial, int rows, int sequences, int blocks_per_seq, int num_blocks,
                    int splits, Score score, int window, float v_scale) {
  extern __shared__ float merged[];  // [WARPS][kBlockHeads][HEAD_DIM], then states [WARPS][kBlockHeads]
  float2* const merged_state = reinterpret_cast<float2*>(merged + WARPS * kBlockHeads * HEAD_DIM);
#if SINGLES
  if (!SIDE_BY_SIDE) wait_for_previous();
  if (int(blockIdx.x) == sequences) {
    if (SIDE_BY_SIDE && blockIdx.y == gridDim.y - 1) wait_for_previous();
    return;
  }
  if (SIDE_BY_SIDE) __threadfence();
#else
  wait_for_previous();
#endif
  allow_next();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const int kv_head = blockIdx.y / kGroups, first_head = kv_head * kGroup + blockIdx.y % kGroups * kBlockHeads;
  const int heads = min(kBlockHeads, (kv_head + 1) * kGroup - first_head);
#if SINGLES
  constexpr int split = 0;
  const SequenceRows of = sequence_rows(starts, lengths, rows, int64_t(blocks_per_seq) * BLOCK_SIZE, blockIdx.x);
  if (of.count != 1) return;
  const int row = of.first;
  const StepRow r{int(blockIdx.x), window > 0 ? max(of.length - window, 0) : 0, of.length};
#else
  const int row = blockIdx.x / splits, split = blockIdx.x % splits;
  StepRow r = step_row(starts, lengths, sequences, rows, int64_t(blocks_per_seq) * BLOCK_SIZE, window, row);
  take_split<WARPS * kTile>(r, split, splits);
#endif
  const int32_t* const table = tables + int64_t(r.sequence) * blocks_per_seq;

  uint32_t query[HEAD_TILES][kKeyChunks][4];
#pragma unroll
  for (int n = 0; n < HEAD_TILES; ++n)
#pragma unroll
    for (int j = 0; j < kKeyChunks; ++j) {
      const int d = 32 * j + 8 * c;
      Vec<ACTIVATION, 8> raw{};
      if (n * 8 + g < heads && d < HEAD_DIM)
        raw = *reinterpret_cast<const Vec<ACTIVATION, 8>*>(q + (int64_t(row) * HEADS + first_head + n * 8 + g) * HEAD_DIM + d);
#pragma unroll
      for (int i = 0; i < 4; ++i) query[n][j][i] = pack_pair(ELEMENT{}, to_float(raw.at[2 * i]), to_float(raw.at[2 * i + 1]));
    }

  // A tile of 16 tokens lies in one block of the cache.
  Chunk keys[UNROLL][2][kKeyChunks], values[UNROLL][4][kValueChunks];
  int block[UNROLL];
  const auto find_blocks = [&](int base) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) block[u] = base + u * 16 < r.end ? table[(base + u * 16) / BLOCK_SIZE] : -1;
  };
  const auto is_block = [&](int u) { return block[u] >= 0 && block[u] < num_blocks; };
  const auto plane = [&](int u, int base, int which) {
    return ((int64_t(is_block(u) ? block[u] : 0) * 2 + which) * KV_HEADS + kv_head) * (BLOCK_SIZE * HEAD_DIM) +
           (base + u * 16) % BLOCK_SIZE * HEAD_DIM;
  };
  const CACHE* const lane_keys = cache + g * HEAD_DIM + 8 * c;
  const CACHE* const lane_values = cache + 2 * c * HEAD_DIM + 8 * g;
  const auto load_keys = [&](int base) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const CACHE* const from = lane_keys + plane(u, base, 0);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int token = base + u * 16 + half * 8 + g;
        const bool seen = token >= r.begin && token < r.end && is_block(u);
#pragma unroll
        for (int j = 0; j < kKeyChunks; ++j) {
          keys[u][half][j] = {};
          if (seen && (HEAD_DIM % 32 == 0 || 32 * j + 8 * c < HEAD_DIM))
            keys[u][half][j] = *reinterpret_cast<const Chunk*>(from + half * 8 * HEAD_DIM + 32 * j);
        }
      }
    }
  };
  const auto load_values = [&](int base) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const CACHE* const from = lane_values + plane(u, base, 1);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int token = base + u * 16 + 2 * c + k % 2 + k / 2 * 8;
        const bool seen = token >= r.begin && token < r.end && is_block(u);
#pragma unroll
        for (int j = 0; j < kValueChunks; ++j) {
          values[u][k][j] = {};
          if (seen && (HEAD_DIM % 64 == 0 || 64 * j + 8 * g < HEAD_DIM))
            values[u][k][j] = *reinterpret_cast<const Chunk*>(from + (k % 2 + k / 2 * 8) * HEAD_DIM + 64 * j);
        }
      }
    }
  };

  DecodeSums sums;

  constexpr int kStep = WARPS * kTile;
  int base = r.begin / 16 * 16 + warp * kTile;
  find_blocks(base);
  load_keys(base);
  load_values(base);
  for (; base < r.end; base += kStep) {
    float weight[HEAD_TILES][UNROLL][4] = {};
    bool is_there[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      is_there[u] = is_block(u);
#pragma unroll
      for (int j = 0; j < kKeyChunks; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t a[4] = {word(keys[u][0][j], 2 * i), word(keys[u][1][j], 2 * i), word(keys[u][0][j], 2 * i + 1),
                                 word(keys[u][1][j], 2 * i + 1)};
#pragma unroll
          for (int n = 0; n < HEAD_TILES; ++n) mma_16x8x16(ELEMENT{}, weight[n][u], a, query[n][j][2 * i], query[n][j][2 * i + 1]);
        }
    }
    find_blocks(base + kStep);
    load_keys(base + kStep);
    sums.weigh(weight, is_there, g, base, r.begin, r.end, score);
    sums.add(weight, values);
    load_values(base + kStep);
  }

#pragma unroll
  for (int n = 0; n < HEAD_TILES; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int head = n * 8 + 2 * c + i;
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) sums.total[n][i] += __shfl_xor_sync(~0u, sums.total[n][i], offset);
      if (head >= heads) continue;
      if (g == 0) merged_state[warp * kBlockHeads + head] = float2{sums.largest[n][i], sums.total[n][i]};
#pragma unroll
      for (int j = 0; j < kValueChunks; ++j)
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int d = 64 * j + 8 * g + 2 * m + e;
            if (d < HEAD_DIM) merged[(warp * kBlockHeads + head) * HEAD_DIM + d] = sums.sum[n][j][m][2 * e + i];
          }
    }
  __syncthreads();
  for (int e = threadIdx.x; e < heads * HEAD_DIM; e += WARPS * 32) {
    const int h = e / HEAD_DIM, d = e % HEAD_DIM;
    float2 state[WARPS];
#pragma unroll
    for (int w = 0; w < WARPS; ++w) state[w] = merged_state[w * kBlockHeads + h];
    const float2 all = merge_states<WARPS>(state);
    float s = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) s += state[w].x * merged[(w * kBlockHeads + h) * HEAD_DIM + d];  // x: the factor by now
    write_part(y, partial, rows, row, first_head + h, split, splits, d, s, all, v_scale);
  }
}
