// paged_attention with warpgroup products (wgmma_flash.cuh) for batches with many new tokens a sequence: a block takes kTileRows rows of
// one sequence and kv head, a row being a token and one of the query heads that share the kv head. `map` is the cache as rows of HEAD_DIM,
// in boxes of 64 columns (of f8e4m3: HEAD_DIM) and BOX_ROWS rows, which divides BLOCK_SIZE and TILE_K. `heads_together` divides KV_HEADS:
// that many heads are worked on at a time, so that their keys and values stay in the L2 cache.
#define SOURCE CACHE
#include "wgmma_flash.cuh"
// After it: kTileRows.
#include "paged_tile.cuh"

struct PagedBoxes : PagedProblem {
  const TensorMap& map;
  DEVICE explicit PagedBoxes(const TensorMap& m) : map(m) {}

  DEVICE float finish(float x, int, int) const { return softcap > 0.f ? softcap * tanh_fast(x * (scale / softcap)) : x * scale; }
  DEVICE int stale_end() const { return (end + BOX_ROWS - 1) / BOX_ROWS * BOX_ROWS; }
  // The row of the map where this lane's box of keys begins; rows behind the cache are zeros.
  DEVICE int locate(int tile) const {
    const int key = tile * TILE_K + int(threadIdx.x % 32) * BOX_ROWS;
    const int block = key < end && threadIdx.x % 32 < TILE_K / BOX_ROWS ? table[key / BLOCK_SIZE] : -1;
    return block >= 0 && block < num_blocks ? (block * 2 * KV_HEADS + kv_head) * BLOCK_SIZE + key % BLOCK_SIZE
                                            : num_blocks * 2 * KV_HEADS * BLOCK_SIZE;
  }
  DEVICE void copy(int row, uint32_t to, uint32_t barrier) const {
    if (threadIdx.x % 32 >= TILE_K / BOX_ROWS) return;
    if constexpr (kWiden) {
      copy_box(to + threadIdx.x % 32 * (BOX_ROWS * HEAD_DIM), map, 0, row, barrier);
    } else {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane)
        copy_box(to + plane * kPlaneBytes + threadIdx.x % 32 * (BOX_ROWS * 128), map, plane * 64, row, barrier);
    }
  }
  DEVICE void copy_keys(int row, uint32_t to, uint32_t barrier) const { copy(row, to, barrier); }
  DEVICE void copy_values(int row, uint32_t to, uint32_t barrier) const { copy(row + KV_HEADS * BLOCK_SIZE, to, barrier); }
};
static_assert(TILE_K % BOX_ROWS == 0 && BLOCK_SIZE % BOX_ROWS == 0 && BOX_ROWS % 8 == 0 && TILE_K / BOX_ROWS <= 32);

// Blocks take tiles of kv heads in turn, forth and back: heads of a group one after another, their longest tiles first.
struct PagedWorks {
  const ACTIVATION* q;
  const int32_t *tables, *lengths, *starts;
  ACTIVATION* y;
  int rows, sequences, blocks_per_seq, num_blocks;
  Score score;
  int window;
  float v_scale;
  int heads_together, tiles, round;

  DEVICE bool next(PagedBoxes& p) {
    const int64_t number = int64_t(round) * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    ++round;
    if (number >= int64_t(tiles) * KV_HEADS) return false;
    const int together = tiles * heads_together, group = int(number / together), in_group = int(number % together);
    return find_problem(p, q, nullptr, tables, lengths, starts, y, rows, sequences, blocks_per_seq, num_blocks, score, window, v_scale,
                        in_group / heads_together, group * heads_together + in_group % heads_together);
  }
};

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    paged_attention(const __grid_constant__ TensorMap map, const ACTIVATION* __restrict__ q, const int32_t* __restrict__ tables,
                    const int32_t* __restrict__ lengths, const int32_t* __restrict__ starts, ACTIVATION* __restrict__ y, int rows,
                    int sequences, int blocks_per_seq, int num_blocks, Score score, int window, float v_scale, int heads_together) {
  if (threadIdx.x == 0) prefetch_map(map);
  wait_for_previous();
  allow_next();
  clear_unowned_rows<kThreads>(starts, sequences, rows, y);
  int tiles;
  warp_find_tile(starts, sequences, rows, 0x7fffffff, tiles);
  PagedWorks works{q,     tables, lengths, starts,         y,     rows, sequences, blocks_per_seq, num_blocks,
                   score, window, v_scale, heads_together, tiles, 0};
  PagedBoxes p(map);
  wgmma_flash(p, works);
}
