// Attention with warpgroup products (sm_90a), after FlashAttention-3 (arXiv:2407.08608). A block works on WARPGROUPS * 64 query rows at a
// time, a warpgroup on 64 of them, which stay in shared memory; one more warp has the copy engine bring tiles of TILE_K keys and of their
// values, kStages deep each, from the last tile to the first. Weights go from the scores' registers into the second product as they are.
//   ELEMENT     f16 or bf16: what is multiplied; ACTIVATION, either of the two: of queries and output
//   SOURCE      of keys and values: ELEMENT, or f8e4m3 with ELEMENT f16: then the three warps beside the copying one widen tiles
//   HEAD_DIM    a multiple of 8 up to 128, with f8e4m3 64 or 128; WARPGROUPS 2 or 3; TILE_K a multiple of 16
//   NATURAL     scores are finished (softcap) before exp; else one multiply-add scales them on the way
//   PIPELINED   a tile's softmax runs beside the product of the tile before and its values, and warpgroups take turns at the tensor cores;
//               else one step follows the other
// Before it (kernels/wgmma_flash.cc): product_scores and product_values.
#pragma once
#include "copy_bulk.cuh"
#include "copy_chunk.cuh"
#include "wgmma.cuh"

constexpr int kTileRows = WARPGROUPS * 64, kConsumers = WARPGROUPS * 128, kThreads = kConsumers + 128, kStages = 2;
// Tiles are planes of 64 columns (128 bytes a row) whose 16-byte chunks lie at chunk ^ (row % 8).
constexpr int kDim = (HEAD_DIM + 63) / 64 * 64, kPlanes = kDim / 64, kChunks = kDim / 8;
constexpr int kPlaneBytes = TILE_K * 128, kTileBytes = kPlanes * kPlaneBytes, kQueryPlaneBytes = kTileRows * 128;
// Tiles of f8e4m3, as they are in memory: keys of the first tile, its values, keys of the second, ..., number j in slot j % kNarrowSlots.
constexpr bool kWiden = sizeof(SOURCE) == 1;
[[maybe_unused]] constexpr int kNarrowSlots = kWiden ? 4 : 0, kNarrowBytes = TILE_K * HEAD_DIM, kWideners = 96,
                               kNumBarriers = 4 * kStages + 2 * kNarrowSlots;
static_assert(TILE_K % 16 == 0 && kDim <= 128 && (!kWiden || (HEAD_DIM % 64 == 0 && WARPGROUPS == 2)));

// Of a tile of values across k: columns of 64 are kPlaneBytes apart, groups of 8 keys 1024.
DEVICE uint64_t value_descriptor(uint32_t address) {
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(kPlaneBytes >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

// Each of 8 bytes. `there`: keys or values have arrived; `free`: every warp is done with them. Tile i, counted in the order of work over
// all that the block does, uses stage i % kStages and is phase i / kStages of its barriers.
struct FlashBarriers {
  uint32_t at;
  DEVICE uint32_t keys_there(int stage) const { return at + stage * 8; }
  DEVICE uint32_t values_there(int stage) const { return at + (kStages + stage) * 8; }
  DEVICE uint32_t keys_free(int stage) const { return at + (2 * kStages + stage) * 8; }
  DEVICE uint32_t values_free(int stage) const { return at + (3 * kStages + stage) * 8; }
  DEVICE uint32_t narrow_there(int slot) const { return at + (4 * kStages + slot) * 8; }
  DEVICE uint32_t narrow_free(int slot) const { return at + (4 * kStages + kNarrowSlots + slot) * 8; }
};

template <int kCount>
DEVICE void keep_all(float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) keep_in_place(x[i]);
}
DEVICE void warpgroup_barrier(int warpgroup) { asm volatile("bar.sync %0, 128;" ::"r"(1 + WARPGROUPS + warpgroup) : "memory"); }
// Turns at the tensor cores go round the warpgroups. A turn is waited for by the warpgroup it comes to and passed by the one before.
DEVICE void wait_for_turn(int warpgroup) { asm volatile("bar.sync %0, 256;" ::"r"(1 + warpgroup) : "memory"); }
DEVICE void pass_turn(int warpgroup) { asm volatile("bar.arrive %0, 256;" ::"r"(1 + (warpgroup + 1) % WARPGROUPS) : "memory"); }

// The tiles of keys that a problem needs, in the order of work.
struct Tiles {
  int first, count;
  template <class Problem>
  DEVICE explicit Tiles(const Problem& p)
      : first(p.begin / TILE_K), count(p.end > p.begin ? (p.end + TILE_K - 1) / TILE_K - p.begin / TILE_K : 0) {}
  DEVICE int at(int n) const { return first + count - 1 - n; }
};

// --- the producer: one warp ---

// `done`: tiles of what the block did before.
template <class Problem>
DEVICE void produce(const Problem& p, const FlashBarriers& barriers, uint32_t keys, uint32_t values, int done) {
  const Tiles t(p);
  if (t.count == 0) return;
  const int lane = threadIdx.x % 32;
  auto next = p.locate(t.at(0));
  for (int n = 0; n < t.count; ++n) {
    const int i = done + n, stage = i % kStages, last_phase = (i / kStages - 1) & 1;
    const auto place = next;
    if (n + 1 < t.count) next = p.locate(t.at(n + 1));
    if (i >= kStages) barrier_wait(barriers.keys_free(stage), last_phase);
    if (lane == 0) barrier_arrive_expecting(barriers.keys_there(stage), kTileBytes);
    __syncwarp();
    p.copy_keys(place, keys + stage * kTileBytes, barriers.keys_there(stage));
    if (i >= kStages) barrier_wait(barriers.values_free(stage), last_phase);
    if (lane == 0) barrier_arrive_expecting(barriers.values_there(stage), kTileBytes);
    __syncwarp();
    p.copy_values(place, values + stage * kTileBytes, barriers.values_there(stage));
  }
}

// The same for tiles that are to be widened.
template <class Problem>
DEVICE void produce_narrow(const Problem& p, const FlashBarriers& barriers, uint32_t narrow, int done) {
  const Tiles t(p);
  if (t.count == 0) return;
  const int lane = threadIdx.x % 32;
  auto next = p.locate(t.at(0));
  for (int n = 0; n < t.count; ++n) {
    const auto place = next;
    if (n + 1 < t.count) next = p.locate(t.at(n + 1));
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const int j = 2 * (done + n) + which, slot = j % kNarrowSlots;
      if (j >= kNarrowSlots) barrier_wait(barriers.narrow_free(slot), (j / kNarrowSlots - 1) & 1);
      if (lane == 0) barrier_arrive_expecting(barriers.narrow_there(slot), kNarrowBytes);
      __syncwarp();
      if (which == 0) p.copy_keys(place, narrow + slot * kNarrowBytes, barriers.narrow_there(slot));
      else p.copy_values(place, narrow + slot * kNarrowBytes, barriers.narrow_there(slot));
    }
  }
}

// By kWideners threads: from narrow tiles to what the products take. Rows behind the last key become zeros.
template <class Problem>
DEVICE void widen(const Problem& p, const FlashBarriers& barriers, uint32_t narrow, uint32_t keys, uint32_t values, int done) {
  const Tiles t(p);
  const int thread = threadIdx.x - kConsumers - 32;
  for (int j = 2 * done; j < 2 * (done + t.count); ++j) {
    const int i = j / 2, stage = i % kStages, slot = j % kNarrowSlots, valid = p.end - t.at(i - done) * TILE_K;
    const bool is_keys = j % 2 == 0;
    barrier_wait(barriers.narrow_there(slot), j / kNarrowSlots & 1);
    if (i >= kStages) barrier_wait(is_keys ? barriers.keys_free(stage) : barriers.values_free(stage), (i / kStages - 1) & 1);
    const uint32_t from = narrow + slot * kNarrowBytes, to = (is_keys ? keys : values) + stage * kTileBytes;
    constexpr int kPerRow = HEAD_DIM / 16;
#pragma unroll 2
    for (int e = thread; e < TILE_K * kPerRow; e += kWideners) {
      const int row = e / kPerRow, chunk = e % kPerRow * 2;  // of 8 elements
      uint32_t x[4], y[8];
      asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(from + e * 16));
#pragma unroll
      for (int k = 0; k < 8; ++k) y[k] = row < valid ? widen_f8x2(uint16_t(x[k / 2] >> k % 2 * 16)) : 0;
#pragma unroll
      for (int half = 0; half < 2; ++half)
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to + chunk / 8 * kPlaneBytes + row * 128 +
                                                                      ((chunk % 8 + half) ^ row % 8) * 16),
                     "r"(y[4 * half]), "r"(y[4 * half + 1]), "r"(y[4 * half + 2]), "r"(y[4 * half + 3])
                     : "memory");
    }
    fence_shared_for_products();
    barrier_arrive(is_keys ? barriers.keys_there(stage) : barriers.values_there(stage));
    barrier_arrive(barriers.narrow_free(slot));
  }
}

// --- the consumers: WARPGROUPS warpgroups ---

// A thread's part of its warpgroup's sums: per 8 columns as mma_16x8x16 has them, rows lane / 4 and that plus 8 of the warp's 16.
struct Softmax {
  float factor, largest[2] = {nothing(), nothing()}, total[2] = {0, 0};

  // Scores become weights relative to the largest so far; `keep` is what earlier sums are worth then.
  DEVICE void step(float (&score)[TILE_K / 2], float (&keep)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float even = largest[i], odd = largest[i];
#pragma unroll
      for (int e = 2 * i; e < TILE_K / 2; e += 4) even = fmaxf(even, score[e]), odd = fmaxf(odd, score[e + 1]);
      float highest = fmaxf(even, odd);
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
      const float shift = finite_or_zero(highest), offset = shift * factor;
      keep[i] = exp2_fast((largest[i] - shift) * factor);
      largest[i] = highest;
      float sum_even = 0, sum_odd = 0;
#pragma unroll
      for (int e = 2 * i; e < TILE_K / 2; e += 4) {
        score[e] = exp2_fast(NATURAL ? (score[e] - shift) * factor : score[e] * factor - offset);
        score[e + 1] = exp2_fast(NATURAL ? (score[e + 1] - shift) * factor : score[e + 1] * factor - offset);
        sum_even += score[e], sum_odd += score[e + 1];
      }
      total[i] = total[i] * keep[i] + (sum_even + sum_odd);
    }
  }
};

DEVICE void scale_sums(float (&out)[kDim / 2], const float (&keep)[2]) {
#pragma unroll
  for (int e = 0; e < kDim / 2; ++e) out[e] *= keep[e / 2 % 2];
}
// As the first operand of products over 16 keys each.
DEVICE void pack_weights(const float (&score)[TILE_K / 2], uint32_t (&weights)[TILE_K / 16][4]) {
#pragma unroll
  for (int k = 0; k < TILE_K / 16; ++k)
#pragma unroll
    for (int j = 0; j < 4; ++j) weights[k][j] = pack(ELEMENT{}, score[k * 8 + j * 2], score[k * 8 + j * 2 + 1]);
}

DEVICE void start_scores(float (&score)[TILE_K / 2], uint64_t queries, uint64_t keys) {
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k)
    product_scores(score, queries + (k / 4 * kQueryPlaneBytes + k % 4 * 32) / 16, keys + (k / 4 * kPlaneBytes + k % 4 * 32) / 16, k > 0);
  products_commit();
}
DEVICE void start_values(float (&out)[kDim / 2], const uint32_t (&weights)[TILE_K / 16][4], uint64_t values) {
#pragma unroll
  for (int k = 0; k < TILE_K / 16; ++k) product_values(out, weights[k], values + k * 2048 / 16);
  products_commit();
}

template <class Problem>
DEVICE void consume(const Problem& p, const FlashBarriers& barriers, uint32_t all_queries, uint32_t keys, uint32_t values, int done) {
  const Tiles t(p);
  const int tiles = t.count;
  const int warpgroup = __shfl_sync(~0u, int(threadIdx.x) / 128, 0), warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int first_row = warpgroup * 64, own_row = first_row + warp * 16 + lane / 4;  // and that plus 8
  const uint32_t queries = all_queries + warpgroup * 64 * 128;
#pragma unroll
  for (int e = threadIdx.x % 128; e < 64 * kChunks; e += 128) {
    const int row = e / kChunks, chunk = e % kChunks;
    const ACTIVATION* const from = p.query(first_row + row);
    const bool valid = from != nullptr && chunk * 8 < HEAD_DIM;
    copy_chunk(queries + chunk / 8 * kQueryPlaneBytes + row * 128 + (chunk % 8 ^ row % 8) * 16, valid ? from + chunk * 8 : p.any_query(),
               valid);
  }
  copy_async_commit();
  int row_begin[2], row_end[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) row_begin[i] = p.row_begin(own_row + i * 8), row_end[i] = p.row_end(own_row + i * 8);
  const int seen_begin = p.row_begin(first_row + 63), seen_end = p.row_end(first_row);  // keys that all rows see
  const uint64_t query_descriptor = operand_descriptor(queries);
  Softmax softmax{NATURAL ? kLog2E : p.scale * kLog2E};
  float out[kDim / 2] = {}, score[TILE_K / 2] = {}, keep[2];
  uint32_t weights[TILE_K / 16][4];
  copy_async_wait<0>();
  fence_shared_for_products();
  warpgroup_barrier(warpgroup);

  const auto stage_of = [&](int i) { return (done + i) % kStages; };
  const auto scores_of = [&](int i) { return operand_descriptor(keys) + stage_of(i) * (kTileBytes / 16); };
  const auto values_of = [&](int i) { return value_descriptor(values) + stage_of(i) * (kTileBytes / 16); };
  const auto wait_keys = [&](int i) { barrier_wait(barriers.keys_there(stage_of(i)), (done + i) / kStages & 1); };
  const auto wait_values = [&](int i) { barrier_wait(barriers.values_there(stage_of(i)), (done + i) / kStages & 1); };
  const auto free_one = [&](uint32_t barrier) {
    __syncwarp();
    if (lane == 0) barrier_arrive(barrier);
  };
  const auto finish_scores = [&](int i) {
    const int first_key = t.at(i) * TILE_K;
    if (!NATURAL && first_key >= seen_begin && first_key + TILE_K <= seen_end) return;
#pragma unroll
    for (int e = 0; e < TILE_K / 2; ++e) {
      const int key = first_key + e / 4 * 8 + lane % 4 * 2 + e % 2, row = e / 2 % 2;
      const bool seen = key >= row_begin[row] && key < row_end[row];
      score[e] = !seen ? nothing() : NATURAL ? p.finish(score[e], row, key) : score[e];
    }
  };
  // Values behind the last key that were copied with it may be anything, and 0 * NaN is NaN. Every warpgroup writes the same zeros.
  const auto clear_stale_values = [&] {
    const int stale = p.stale_end() - p.end;
    if (kWiden || stale <= 0) return;
    wait_values(0);
    const int from = p.end - t.at(0) * TILE_K;
    for (int e = threadIdx.x % 128; e < stale * kPlanes * 8; e += 128) {
      const uint32_t to = values + stage_of(0) * kTileBytes + e / (stale * 8) * kPlaneBytes + from * 128 + e % (stale * 8) * 16;
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
    }
    fence_shared_for_products();
    warpgroup_barrier(warpgroup);
  };

  if constexpr (PIPELINED) {
    if (tiles > 0) {
      wait_keys(0);
      keep_all(score);
      products_begin();
      start_scores(score, query_descriptor, scores_of(0));
      if (warpgroup == WARPGROUPS - 1 && tiles > 1) pass_turn(warpgroup);
      products_wait<0>();
      keep_all(score);
      free_one(barriers.keys_free(stage_of(0)));
      finish_scores(0);
      softmax.step(score, keep);
      pack_weights(score, weights);
      clear_stale_values();
      for (int i = 1; i < tiles; ++i) {
        wait_values(i - 1);
        wait_keys(i);
        wait_for_turn(warpgroup);
        keep_all(score);
        keep_all(out);
        products_begin();
        start_scores(score, query_descriptor, scores_of(i));
        start_values(out, weights, values_of(i - 1));
        if (warpgroup != WARPGROUPS - 1 || i + 1 < tiles) pass_turn(warpgroup);
        products_wait<1>();
        keep_all(score);
        free_one(barriers.keys_free(stage_of(i)));
        finish_scores(i);
        softmax.step(score, keep);
        products_wait<0>();
        keep_all(out);
        free_one(barriers.values_free(stage_of(i - 1)));
        scale_sums(out, keep);
        pack_weights(score, weights);
      }
      wait_values(tiles - 1);
      keep_all(out);
      products_begin();
      start_values(out, weights, values_of(tiles - 1));
      products_wait<0>();
      keep_all(out);
      free_one(barriers.values_free(stage_of(tiles - 1)));
    }
  } else {
    for (int i = 0; i < tiles; ++i) {
      wait_keys(i);
      keep_all(score);
      products_begin();
      start_scores(score, query_descriptor, scores_of(i));
      products_wait<0>();
      keep_all(score);
      free_one(barriers.keys_free(stage_of(i)));
      finish_scores(i);
      softmax.step(score, keep);
      scale_sums(out, keep);
      pack_weights(score, weights);
      if (i == 0) clear_stale_values();
      wait_values(i);
      keep_all(out);
      products_begin();
      start_values(out, weights, values_of(i));
      products_wait<0>();
      keep_all(out);
      free_one(barriers.values_free(stage_of(i)));
    }
  }

  // To memory by way of the queries' place, so that rows are written whole. A warp reads back what it wrote.
  warpgroup_barrier(warpgroup);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float total = softmax.total[i];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    const float scale = total == 0.f ? 0.f : p.v_scale / total;
    const int row = warp * 16 + lane / 4 + i * 8;
#pragma unroll
    for (int d = 0; d < kChunks; ++d)
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(queries + d / 8 * kQueryPlaneBytes + row * 128 + (d % 8 ^ row % 8) * 16 + lane % 4 * 4),
                   "r"(pack(ACTIVATION{}, out[d * 4 + 2 * i] * scale, out[d * 4 + 2 * i + 1] * scale))
                   : "memory");
  }
  __syncwarp();
#pragma unroll
  for (int e = lane; e < 16 * kChunks; e += 32) {
    const int row = warp * 16 + e / kChunks, chunk = e % kChunks;
    uint4 x;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(queries + chunk / 8 * kQueryPlaneBytes + row * 128 + (chunk % 8 ^ row % 8) * 16)
                 : "memory");
    if (chunk * 8 < HEAD_DIM && p.query(first_row + row) != nullptr) *reinterpret_cast<uint4*>(p.output(first_row + row) + chunk * 8) = x;
  }
  warpgroup_barrier(warpgroup);
}

// What a block does: works.next(p) makes p the next problem, alike in every warp, or says that there is none. Rows are the problem's own,
// [0, kTileRows); keys are numbered within the sequence.
//   int begin, end                          keys that any row sees
//   const ACTIVATION* query(row)            null: no such row; any_query(): some address
//   ACTIVATION* output(row)                 of a row that is there
//   int row_begin(row), row_end(row)        keys that a row sees: neither falls from a row to the next
//   int stale_end()                         keys [end, stale_end) have values copied that may be anything
//   locate(tile)                            by each lane of a warp: whatever the copies need to know
//   copy_keys(place, to, barrier)           starts the copies of TILE_K keys, kTileBytes in all (kNarrowBytes of f8e4m3); copy_values(...)
//   float finish(x, row_index, key)         a natural score: from q k to what exp takes
//   float scale, v_scale
template <class Problem, class Works>
DEVICE void wgmma_flash(Problem& p, Works& works) {
  extern __shared__ uint4 flash_shared[];
  __shared__ uint64_t barrier_memory[kNumBarriers];
  const FlashBarriers barriers{shared_address(barrier_memory)};
  const uint32_t queries = (shared_address(flash_shared) + 1023) & ~1023u, keys = queries + kPlanes * kQueryPlaneBytes;
  const uint32_t values = keys + kStages * kTileBytes, narrow = values + kStages * kTileBytes;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2 * kStages; ++i) {
      barrier_init(barriers.at + i * 8, kWiden ? kWideners : 1);
      barrier_init(barriers.at + (2 * kStages + i) * 8, WARPGROUPS * 4);
    }
    for (int i = 0; i < kNarrowSlots; ++i) {
      barrier_init(barriers.narrow_there(i), 1);
      barrier_init(barriers.narrow_free(i), kWideners);
    }
    barrier_init_done();
  }
  __syncthreads();
  // Registers a thread: 240 * 256 + 24 * 128, 232 * 256 + 40 * 128 and 160 * 384 + 32 * 128 are what a multiprocessor has, 64 K.
  if (__shfl_sync(~0u, int(threadIdx.x) / 128, 0) == WARPGROUPS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kWiden ? 40 : WARPGROUPS == 2 ? 24 : 32));
    const bool copies = __shfl_sync(~0u, int(threadIdx.x), 0) == kConsumers;
    if (copies || kWiden)
      for (int done = 0; works.next(p); done += Tiles(p).count)
        if constexpr (kWiden) {
          if (copies) produce_narrow(p, barriers, narrow, done);
          else widen(p, barriers, narrow, keys, values, done);
        } else {
          produce(p, barriers, keys, values, done);
        }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kWiden ? 232 : WARPGROUPS == 2 ? 240 : 160));
    for (int done = 0; works.next(p); done += Tiles(p).count) consume(p, barriers, queries, keys, values, done);
  }
}
