// attention without a mask with warpgroup products (wgmma_flash.cuh): a block takes kTileRows queries of a head. The maps are of keys and
// values as [batch, head, row, HEAD_DIM], in boxes of 64 columns and TILE_K rows. `heads_together` divides the number of heads: that many
// are worked on at a time, so that their keys and values stay in the L2 cache.
#define MASK_KIND 0
#define ACTIVATION ELEMENT
#define SOURCE ELEMENT
#include "attention.cuh"
#include "wgmma_flash.cuh"

struct DenseBoxes {
  const AttentionArgs& a;
  const TensorMap &k, &v;
  const ELEMENT* q;  // of the head
  ELEMENT* y;
  int first_row, begin, end, kv_head, batch;
  float scale, v_scale;

  DEVICE const ELEMENT* any_query() const { return q; }
  DEVICE const ELEMENT* query(int row) const { return first_row + row < a.q_length ? q + int64_t(first_row + row) * a.q.row : nullptr; }
  DEVICE ELEMENT* output(int row) const { return y + int64_t(first_row + row) * a.y.row; }
  DEVICE int row_begin(int) const { return 0; }
  DEVICE int row_end(int row) const { return a.visible(first_row + row); }
  DEVICE int stale_end() const { return end; }
  DEVICE int locate(int tile) const { return tile * TILE_K; }
  DEVICE void copy(const TensorMap& map, int row, uint32_t to, uint32_t barrier) const {
    if (threadIdx.x % 32 < kPlanes)
      copy_box(to + threadIdx.x % 32 * kPlaneBytes, map, int(threadIdx.x % 32) * 64, row, kv_head, batch, barrier);
  }
  DEVICE void copy_keys(int row, uint32_t to, uint32_t barrier) const { copy(k, row, to, barrier); }
  DEVICE void copy_values(int row, uint32_t to, uint32_t barrier) const { copy(v, row, to, barrier); }
  DEVICE float finish(float x, int, int) const { return a.softcap > 0.f ? a.softcap * tanh_fast(x * (scale / a.softcap)) : x * scale; }
};

// Blocks take tiles of heads in turn, forth and back: heads of a group one after another, their longest tiles first.
struct DenseWorks {
  const AttentionArgs& a;
  const ELEMENT* q;
  ELEMENT* y;
  int heads_together, batches, round;

  DEVICE bool next(DenseBoxes& p) {
    const int64_t number = int64_t(round) * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    ++round;
    const int tiles = (a.q_length + kTileRows - 1) / kTileRows;
    if (number >= int64_t(tiles) * a.heads * batches) return false;
    const int together = tiles * heads_together, in_group = int(number % together);
    const int head_of_all = int(number / together) * heads_together + in_group % heads_together, head = head_of_all % a.heads;
    p.batch = head_of_all / a.heads, p.kv_head = head / a.group;
    p.q = q + p.batch * a.q.batch + head * a.q.head, p.y = y + p.batch * a.y.batch + head * a.y.head;
    p.first_row = (tiles - 1 - in_group / heads_together) * kTileRows;
    p.begin = 0, p.end = p.row_end(min(kTileRows, a.q_length - p.first_row) - 1);
    return true;
  }
};

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    attention(const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, const ELEMENT* q, ELEMENT* __restrict__ y,
              const __grid_constant__ AttentionArgs a, int heads_together, int batches) {
  if (threadIdx.x == 0) prefetch_map(k), prefetch_map(v);
  wait_for_previous();
  allow_next();
  DenseBoxes p{a, k, v, q, y, 0, 0, 0, 0, 0, a.scale, 1.f};
  DenseWorks works{a, q, y, heads_together, batches, 0};
  wgmma_flash(p, works);
}
