// cached_attention with tensor cores for a new token a sequence: norm and rope of its q and k heads, k and v into the cache, attention over
// the cached tokens and the new one. A cluster of CLUSTER blocks takes up to HEAD_TILES * 8 query heads of one kv head of one row; units of
// UNROLL tiles of 16 tokens go round its warps, the blocks first, so that however short a sequence is its tokens are asked for at once, and
// blocks and warps that get none have nothing to do. The parts add up in a fixed order: a block's warps in its shared memory, the blocks in
// the first one's.
//
// Keys and values go from memory to registers in 16-byte loads that are already operands of mma; layout: paged_decode.cu. The new token's
// key and value are put into the registers of the lanes that would have loaded them, from shared memory: they are never read back from the
// cache.
//
// With EARLY, before wait_for_previous() it reads what no kernel of its step writes: the step's integers, and the keys and values of
// earlier steps. That those are complete: a graph's first kernel starts after everything before the graph. Without a graph, what brings the
// integers stands between the steps: a copy, which nothing passes, or a kernel that never calls allow_next(), so that the kernels behind it
// start when it has ended, and with it the step before. Of the cache, a step's kernels write slots of its new tokens only, each in the one
// node of its layer, and this kernel does not load the slot it writes.
//
// ACTIVATION (qkv and y), CACHE, ELEMENT (what is multiplied: the cache's type, f16 for f8e4m3), ANGLE (cos, sin), NORM. HEADS, KV_HEADS,
// HEAD_DIM (a multiple of 8), BLOCK_SIZE; HALF: rotated pairs; INTERLEAVED, HAS_Q_NORM, HAS_K_NORM, HAS_SOFTCAP; VECTOR: elements of a head
// that a lane takes at once; HEAD_TILES, UNROLL, WARPS, CLUSTER; BLOCKS on an SM.
#include "copy_bulk.cuh"
#include "decode_sums.cuh"
#include "merge.cuh"
#include "rotate.cuh"

constexpr int kGroup = HEADS / KV_HEADS, kBlockHeads = kGroup < 8 * HEAD_TILES ? kGroup : 8 * HEAD_TILES;
constexpr int kGroups = (kGroup + kBlockHeads - 1) / kBlockHeads;
constexpr int kStep = CLUSTER * WARPS * kTile;
constexpr int kQueryPitch = HEAD_DIM + 8, kSumPitch = HEAD_DIM + 4;  // elements from head to head: other banks
constexpr int kHeads = (kBlockHeads + 2 + WARPS - 1) / WARPS;        // heads of q, k and v that a warp rotates
static_assert(kBlockHeads * kSumPitch >= HEAD_DIM, "a warp rotates where it leaves its sums");

extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)
    cached_attention(const ACTIVATION* qkv, CACHE* cache, const int32_t* slots, const int32_t* tables, const int32_t* lengths,
                     const int32_t* starts, const ANGLE* cos, const ANGLE* sin, const NORM* q_norm, const NORM* k_norm,
                     ACTIVATION* __restrict__ y, int blocks_per_seq, int num_blocks, float epsilon, Score score, int window,
                     float k_inverse, float v_inverse, float v_scale) {
  extern __shared__ float4 memory[];
  float* const merged = reinterpret_cast<float*>(memory);         // [WARPS][kBlockHeads][kSumPitch]
  float* const parts = merged + WARPS * kBlockHeads * kSumPitch;  // of the first block: [CLUSTER][kBlockHeads][kSumPitch]
  constexpr int kParts = CLUSTER > 1 ? CLUSTER : 0;
  float2* const merged_state = reinterpret_cast<float2*>(parts + kParts * kBlockHeads * kSumPitch);  // [WARPS][kBlockHeads]
  float2* const part_states = merged_state + WARPS * kBlockHeads;                                    // [CLUSTER][kBlockHeads]
  __shared__ __align__(16) ELEMENT queries[kBlockHeads * kQueryPitch];
  __shared__ __align__(16) CACHE fresh[2][HEAD_DIM];  // the new token's key and value
#if CLUSTER > 1
  __shared__ uint64_t arrived;  // of the first block: the parts
  const uint32_t barrier = shared_address(&arrived);
  if (threadIdx.x == 0) barrier_init(barrier, 1), barrier_init_done();
  cluster_arrive();
#endif
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const int row = blockIdx.x / CLUSTER, rank = blockIdx.x % CLUSTER;
  const int kv_head = blockIdx.y / kGroups, first_head = kv_head * kGroup + blockIdx.y % kGroups * kBlockHeads;
  const int heads = min(kBlockHeads, (kv_head + 1) * kGroup - first_head);
  const int32_t* const table = tables + int64_t(row) * blocks_per_seq;

  // One trip to memory: with no window the first unit's place is known before the length is.
  if (!EARLY) wait_for_previous();
  const auto unit = [&](int begin) { return begin / 16 * 16 + (warp * CLUSTER + rank) * kTile; };
  const auto entry = [&](int token) { return load_in_order(table + min(token / BLOCK_SIZE, blocks_per_seq - 1)); };
  int block[UNROLL], next[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) block[u] = entry(unit(0) + u * 16), next[u] = entry(unit(0) + kStep + u * 16);
  const int first_row = load_in_order(starts + row), end_row = load_in_order(starts + row + 1);
  const int length = load_in_order(lengths + row), slot = load_in_order(slots + row);
  const bool is_used = first_row == row && end_row == row + 1;
  const int end = is_used ? int(min(int64_t(max(length, 0)), int64_t(blocks_per_seq) * BLOCK_SIZE)) : 0;
  const int begin = window > 0 ? max(end - window, 0) : 0;
  int base = unit(begin);
  if (window > 0)
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) block[u] = entry(base + u * 16), next[u] = entry(base + kStep + u * 16);

  // A tile of 16 tokens lies in one block of the cache.
  Chunk keys[UNROLL][2][kKeyChunks], values[UNROLL][4][kValueChunks];
  const auto is_block = [&](int b) { return b >= 0 && b < num_blocks; };
  // Where block `b` is the last token's: that token, if its slot is the new one's; it is not in the cache yet.
  const auto fresh_token = [&](int b) { return is_block(b) && int64_t(b) * BLOCK_SIZE + (end - 1) % BLOCK_SIZE == slot ? end - 1 : -1; };
  const auto is_cached = [&](int token, int b) { return token >= begin && token < end && is_block(b) && token != fresh_token(b); };
  const auto plane = [&](int b, int tile, int which) {
    return ((int64_t(is_block(b) ? b : 0) * 2 + which) * KV_HEADS + kv_head) * (BLOCK_SIZE * HEAD_DIM) + tile % BLOCK_SIZE * HEAD_DIM;
  };
  const CACHE* const lane_keys = cache + g * HEAD_DIM + 8 * c;
  const CACHE* const lane_values = cache + 2 * c * HEAD_DIM + 8 * g;
  const auto load_keys = [&](const int(&blocks)[UNROLL], int first) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const CACHE* const from = lane_keys + plane(blocks[u], first + u * 16, 0);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bool seen = is_cached(first + u * 16 + half * 8 + g, blocks[u]);
#pragma unroll
        for (int j = 0; j < kKeyChunks; ++j)
          load_chunk(keys[u][half][j], from + half * 8 * HEAD_DIM + 32 * j, seen && (HEAD_DIM % 32 == 0 || 32 * j + 8 * c < HEAD_DIM));
      }
    }
  };
  const auto load_values = [&](const int(&blocks)[UNROLL], int first) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const CACHE* const from = lane_values + plane(blocks[u], first + u * 16, 1);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const bool seen = is_cached(first + u * 16 + 2 * c + k % 2 + k / 2 * 8, blocks[u]);
#pragma unroll
        for (int j = 0; j < kValueChunks; ++j)
          load_chunk(values[u][k][j], from + (k % 2 + k / 2 * 8) * HEAD_DIM + 64 * j,
                     seen && (HEAD_DIM % 64 == 0 || 64 * j + 8 * g < HEAD_DIM));
      }
    }
  };
  load_keys(block, base);
  load_values(block, base);

  // The next kernel asks for all the weights it has room for as soon as it may: only behind what this one waits for.
  allow_next();
  if (EARLY && warp == 0) RowAngles::prefetch(cos, sin, row, lane);
  if (EARLY) wait_for_previous();
  {
    RawHeadPart raw[kHeads];
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      const int h = warp + i * WARPS;  // the block's queries, then k, then v
      const int at = h < heads ? first_head + h : HEADS + (h - heads) * KV_HEADS + kv_head;
      if (h < heads + 2) raw[i].load(qkv + (int64_t(row) * (HEADS + 2 * KV_HEADS) + at) * HEAD_DIM, lane);
    }
    RowAngles angles;
    NormPart norm_of_q, norm_of_k;
    if (warp < heads + 1) angles.load(cos, sin, row, lane);
    if (HAS_Q_NORM && warp < heads) norm_of_q.load(q_norm, lane);
    if (HAS_K_NORM && warp < heads + 1) norm_of_k.load(k_norm, lane);
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      const int h = warp + i * WARPS;
      if (h >= heads + 2) break;
      HeadPart x;
      x.convert(raw[i]);
      if (HAS_Q_NORM && h < heads) x.normalize(norm_of_q, epsilon);
      if (HAS_K_NORM && h == heads) x.normalize(norm_of_k, epsilon);
      if (h <= heads) x.rotate(angles, merged + warp * kBlockHeads * kSumPitch, lane);
      if (h < heads) x.store(queries + h * kQueryPitch, 1, lane);
      else x.store(fresh[h - heads], h == heads ? k_inverse : v_inverse, lane);
    }
  }
  __syncthreads();
  // Eight elements of head n * 8 + g, from 32 j + 8 c, as words: in shared memory, since registers are short.
  const uint32_t lane_query = shared_address(queries + g * kQueryPitch + 8 * c);
  const auto load_query = [&](int n, int j, Vec<uint32_t, 4>& x) {
    const bool is_there = n * 8 + g < heads && (HEAD_DIM % 32 == 0 || 32 * j + 8 * c < HEAD_DIM);
    load_shared(x, lane_query + (n * 8 * kQueryPitch + 32 * j) * sizeof(ELEMENT), is_there);
  };

  const auto exponent = [&](float x) {
    if constexpr (HAS_SOFTCAP) return score(x);
    else return x * (score.scale * 1.4426950408889634f);  // log2(e): as an exponent of 2
  };
  DecodeSums sums;
  const int units = end > begin ? (end - begin / 16 * 16 + kTile - 1) / kTile : 0;
  const auto active_warps = [&](int of_rank) { return min(max((units - of_rank + CLUSTER - 1) / CLUSTER, 0), WARPS); };

  for (; base < end; base += kStep) {
    // The new token's key and value, in the lanes that hold its place.
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const int tile = base + u * 16, last = fresh_token(block[u]) - tile;
      if (last < 0 || last >= 16) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < kKeyChunks; ++j)
          if (last == half * 8 + g && (HEAD_DIM % 32 == 0 || 32 * j + 8 * c < HEAD_DIM))
            keys[u][half][j] = *reinterpret_cast<const Chunk*>(&fresh[0][32 * j + 8 * c]);
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int j = 0; j < kValueChunks; ++j)
          if (last == 2 * c + k % 2 + k / 2 * 8 && (HEAD_DIM % 64 == 0 || 64 * j + 8 * g < HEAD_DIM))
            values[u][k][j] = *reinterpret_cast<const Chunk*>(&fresh[1][64 * j + 8 * g]);
    }
    int later[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) later[u] = base + 2 * kStep < end ? entry(base + 2 * kStep + u * 16) : 0;
    float weight[HEAD_TILES][UNROLL][4] = {};
    bool is_there[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) is_there[u] = is_block(block[u]);
#pragma unroll
    for (int j = 0; j < kKeyChunks; ++j) {
      Vec<uint32_t, 4> query[HEAD_TILES];
#pragma unroll
      for (int n = 0; n < HEAD_TILES; ++n) load_query(n, j, query[n]);
#pragma unroll
      for (int u = 0; u < UNROLL; ++u)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t a[4] = {word(keys[u][0][j], 2 * i), word(keys[u][1][j], 2 * i), word(keys[u][0][j], 2 * i + 1),
                                 word(keys[u][1][j], 2 * i + 1)};
#pragma unroll
          for (int n = 0; n < HEAD_TILES; ++n) mma_16x8x16(ELEMENT{}, weight[n][u], a, query[n].at[2 * i], query[n].at[2 * i + 1]);
        }
    }
    const bool is_last = CLUSTER > 1 && base + kStep >= end;  // few warps: instructions count
    if (!is_last) load_keys(next, base + kStep);
    sums.weigh(weight, is_there, g, base, begin, end, exponent);
    sums.add(weight, values);
    if (!is_last) load_values(next, base + kStep);
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) block[u] = next[u], next[u] = later[u];
  }

  if (warp < active_warps(rank))
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
          if (HEAD_DIM % 64 == 0 || 64 * j + 8 * g < HEAD_DIM) {
            float4* const to = reinterpret_cast<float4*>(merged + (warp * kBlockHeads + head) * kSumPitch + 64 * j + 8 * g);
#pragma unroll
            for (int m = 0; m < 4; m += 2)
              to[m / 2] = float4{sums.sum[n][j][m][i], sums.sum[n][j][m][2 + i], sums.sum[n][j][m + 1][i], sums.sum[n][j][m + 1][2 + i]};
          }
      }
  __syncthreads();
  // Vectors of four sums; a head's lie together.
  constexpr int kVectors = HEAD_DIM / 4;
  const auto finish = [&](int h, int v, float4 s, float2 all) {
    const float scale = all.y == 0.f ? 0.f : v_scale / all.y;
    const Vec<ACTIVATION, 4> out{from_float<ACTIVATION>(s.x * scale), from_float<ACTIVATION>(s.y * scale),
                                 from_float<ACTIVATION>(s.z * scale), from_float<ACTIVATION>(s.w * scale)};
    reinterpret_cast<Vec<ACTIVATION, 4>*>(y + (int64_t(row) * HEADS + first_head + h) * HEAD_DIM)[v] = out;
  };
  // The last warps, which have least to do, take the new token to the cache.
  if (rank == CLUSTER - 1 && blockIdx.y % kGroups == 0 && slot >= 0 && slot < int64_t(num_blocks) * BLOCK_SIZE) {
    using Piece = Vec<uint32_t, 2>;
    constexpr int kPieces = HEAD_DIM * sizeof(CACHE) / sizeof(Piece);
    for (int i = WARPS * 32 - 1 - threadIdx.x; i < 2 * kPieces; i += WARPS * 32) {
      const int which = i / kPieces;
      const int64_t at = ((int64_t(slot / BLOCK_SIZE) * 2 + which) * KV_HEADS + kv_head) * BLOCK_SIZE + slot % BLOCK_SIZE;
      reinterpret_cast<Piece*>(cache + at * HEAD_DIM)[i % kPieces] = reinterpret_cast<const Piece*>(fresh[which])[i % kPieces];
    }
  }
  const int active = active_warps(rank);
#if CLUSTER > 1
  cluster_wait();  // the first block is there
#endif
  for (int e = threadIdx.x; e < heads * kVectors && (CLUSTER == 1 || active > 0); e += WARPS * 32) {
    const int h = e / kVectors, v = e % kVectors;
    float2 all;
    const float4 s = merge_parts<WARPS>(
        active, [&](int w) { return merged_state[w * kBlockHeads + h]; },
        [&](int w) { return reinterpret_cast<const float4*>(merged + (w * kBlockHeads + h) * kSumPitch)[v]; }, all);
#if CLUSTER == 1
    finish(h, v, s, all);
#else
    const int at = rank * kBlockHeads + h;
    const uint32_t of_first = cluster_address(barrier, 0);
    cluster_store(cluster_address(shared_address(parts + at * kSumPitch + v * 4), 0), s, of_first);
    if (v == 0) cluster_store(cluster_address(shared_address(part_states + at), 0), all, of_first);
#endif
  }
#if CLUSTER > 1
  // The others leave: nobody reads their shared memory. Each block with a unit sends the sums and the state of each head.
  if (rank != 0) return;
  if (threadIdx.x == 0) barrier_arrive_expecting(barrier, min(units, CLUSTER) * heads * (kVectors * 16 + 8));
  barrier_wait(barrier, 0);
  for (int e = threadIdx.x; e < heads * kVectors; e += WARPS * 32) {
    const int h = e / kVectors, v = e % kVectors;
    float2 all;
    const float4 s = merge_parts<CLUSTER>(
        min(units, CLUSTER), [&](int r) { return part_states[r * kBlockHeads + h]; },
        [&](int r) { return reinterpret_cast<const float4*>(parts + (r * kBlockHeads + h) * kSumPitch)[v]; }, all);
    finish(h, v, s, all);
  }
#endif
}
