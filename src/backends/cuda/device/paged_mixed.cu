// paged_attention for steps in which some sequences have many new tokens and others one. Three kernels: plan_step lists the tiles of the
// former; paged_attention works on them, as in paged_wgmma.cu; paged_decode.cu with SINGLES takes the latter, beside the second. A block of
// the second fills a multiprocessor, those of the third fill what the second leaves and frees, so that reading memory and multiplying go on
// at the same time. `map`: paged_boxes.cuh.
#include "paged_boxes.cuh"

constexpr int kPlanThreads = 1024;

// Ahead of its tiles in memory, 32 bytes each.
struct Plan {
  int tiles;
  int blocks;  // that work on them: a block a multiprocessor
  int unused[6];
};
struct alignas(16) PlannedTile {
  int sequence, first_row;
  SequenceRows of;
  int unused[3];
};

// What a multiprocessor spends, in tiles of kTileRows keys with the same number of query rows: beside the keys of a tile, on a sequence's
// keys when there is one row, and beside those. From bandwidth (of 60 multiprocessors that read at once) and times on an H100.
constexpr float kTileCost = 3, kKeyCost = 2 * HEAD_DIM * sizeof(CACHE) / 1024.f / kTileRows, kSequenceCost = 0.25f;

// By one block. `most_tiles`: room behind the plan; sequences that do not overlap have no more. `blocks`: of the kernel for tiles; with
// `side_by_side`, about as many take part as let both kernels end together, rather more.
extern "C" __global__ void __launch_bounds__(kPlanThreads)
    plan_step(const int32_t* lengths, const int32_t* starts, Plan* __restrict__ plan, int rows, int sequences, int blocks_per_seq,
              int window, int most_tiles, int blocks, int side_by_side) {
  __shared__ int ends[kPlanThreads], warp_sums[kPlanThreads / 32];
  __shared__ SequenceRows all[kPlanThreads];
  __shared__ float scratch[kPlanThreads / 32];
  wait_for_previous();
  allow_next();
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  auto* const tiles = reinterpret_cast<PlannedTile*>(plan + 1);
  int done = 0;
  float of_tiles = 0, of_singles = 0;
  for (int base = 0; base < sequences; base += kPlanThreads) {
    SequenceRows of{0, 0, 0};
    if (base + thread < sequences) of = sequence_rows(starts, lengths, rows, int64_t(blocks_per_seq) * BLOCK_SIZE, base + thread);
    const int count = of.count == 1 ? 0 : min((of.count * kGroup + kTileRows - 1) / kTileRows, most_tiles);
    const auto keys = [&](int n) { return float(window > 0 ? min(n, window) : n); };
    of_tiles += count * (keys(max(of.length - of.count / 2, 0)) / kTileRows + kTileCost);
    if (of.count == 1) of_singles += keys(of.length) * kKeyCost + kSequenceCost;
    int sum = count;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(~0u, sum, offset);
      if (lane >= offset) sum += other;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int before = 0, total = 0;
#pragma unroll
    for (int w = 0; w < kPlanThreads / 32; ++w) {
      if (w < warp) before += warp_sums[w];
      total += warp_sums[w];
    }
    ends[thread] = before + sum, all[thread] = of;
    __syncthreads();
    // The last tile of a sequence, which has the most keys before it, first.
    for (int t = thread; t < total && done + t < most_tiles; t += kPlanThreads) {
      int low = 0, high = kPlanThreads - 1;  // the first that ends behind t
      while (low < high) {
        const int middle = (low + high) / 2;
        if (ends[middle] <= t) low = middle + 1;
        else high = middle;
      }
      tiles[done + t] = {base + low, (ends[low] - 1 - t) * kTileRows, all[low], {0, 0, 0}};
    }
    done = min(done + total, most_tiles);
    __syncthreads();
  }
  of_tiles = block_reduce<Sum, kPlanThreads>(of_tiles, scratch);
  of_singles = block_reduce<Sum, kPlanThreads>(of_singles, scratch);
  if (thread == 0) {
    const int part = of_singles > 0.f && side_by_side ? int(ceilf(blocks * (of_tiles / (of_tiles + of_singles)))) : blocks;
    plan->tiles = done;
    plan->blocks = int(min(int64_t(min(max(part, 1), blocks)), int64_t(done) * KV_HEADS));
  }
}

// Blocks take tiles of kv heads in turn, forth and back. `heads_together`: as in paged_wgmma.cu.
struct PlannedWorks {
  const PagedStep step;
  const PlannedTile* planned;
  int heads_together, tiles, blocks, round;

  DEVICE bool next(PagedBoxes& p) {
    const int64_t number = int64_t(round) * blocks + (round % 2 ? blocks - 1 - int(blockIdx.x) : int(blockIdx.x));
    ++round;
    if (number >= int64_t(tiles) * KV_HEADS) return false;
    const int together = tiles * heads_together, group = int(number / together), in_group = int(number % together);
    const PlannedTile tile = planned[in_group / heads_together];
    step.set(p, tile.sequence, tile.of, tile.first_row, group * heads_together + in_group % heads_together);
    return true;
  }
};

// Its first `plan->blocks` blocks work.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    paged_attention(const __grid_constant__ TensorMap map, const ACTIVATION* q, const int32_t* tables, const int32_t* lengths,
                    const int32_t* starts, ACTIVATION* __restrict__ y, int rows, int sequences, int blocks_per_seq, int num_blocks,
                    Score score, int window, float v_scale, int heads_together, const Plan* plan) {
  if (threadIdx.x == 0) prefetch_map(map);
  wait_for_previous();
  allow_next();
  clear_unowned_rows<kThreads>(starts, sequences, rows, y);
  const int tiles = plan->tiles, blocks = plan->blocks;
  if (int(blockIdx.x) >= blocks) return;
  PlannedWorks works{{q, nullptr, tables, lengths, starts, y, rows, sequences, blocks_per_seq, num_blocks, score, window, v_scale},
                     reinterpret_cast<const PlannedTile*>(plan + 1),
                     heads_together,
                     tiles,
                     blocks,
                     0};
  PagedBoxes p(map);
  wgmma_flash(p, works);
}
