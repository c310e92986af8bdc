// Tiles of paged_attention for wgmma_flash.cuh. `map` is the cache as rows of HEAD_DIM, in boxes of 64 columns (of f8e4m3: HEAD_DIM) and
// BOX_ROWS rows, which divides BLOCK_SIZE and TILE_K.
#pragma once
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
