// paged_attention with warpgroup products (wgmma_flash.cuh) for batches with many new tokens a sequence: a block takes kTileRows rows of
// one sequence and kv head, a row being a token and one of the query heads that share the kv head. `map`: paged_boxes.cuh.
// `heads_together` divides KV_HEADS: that many heads are worked on at a time, so that their keys and values stay in the L2 cache.
#include "paged_boxes.cuh"

// Blocks take tiles of kv heads in turn, forth and back: heads of a group one after another, their longest tiles first.
struct PagedWorks {
  const PagedStep step;
  int heads_together, tiles, round;

  DEVICE bool next(PagedBoxes& p) {
    const int64_t number = int64_t(round) * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    ++round;
    if (number >= int64_t(tiles) * KV_HEADS) return false;
    const int together = tiles * heads_together, group = int(number / together), in_group = int(number % together);
    return step.find(p, in_group / heads_together, group * heads_together + in_group % heads_together);
  }
};

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    paged_attention(const __grid_constant__ TensorMap map, const ACTIVATION* q, const int32_t* tables, const int32_t* lengths,
                    const int32_t* starts, ACTIVATION* __restrict__ y, int rows, int sequences, int blocks_per_seq, int num_blocks,
                    Score score, int window, float v_scale, int heads_together) {
  if (threadIdx.x == 0) prefetch_map(map);
  wait_for_previous();
  allow_next();
  clear_unowned_rows<kThreads>(starts, sequences, rows, y);
  int tiles;
  warp_find_tile(starts, sequences, rows, 0x7fffffff, tiles);
  PagedWorks works{{q, nullptr, tables, lengths, starts, y, rows, sequences, blocks_per_seq, num_blocks, score, window, v_scale},
                   heads_together,
                   tiles,
                   0};
  PagedBoxes p(map);
  wgmma_flash(p, works);
}
