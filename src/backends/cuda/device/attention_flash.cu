// attention with tensor cores (flash.cuh): a block takes kTileRows queries of a head.
#define SOURCE ELEMENT
#define ACTIVATION ELEMENT
#include "attention.cuh"
#include "flash.cuh"

struct DenseProblem {
  const AttentionArgs& a;
  const ELEMENT *q, *k, *v;  // of the head
  const MASK* mask;
  ELEMENT* y;
  int first_row, begin, end;
  float scale, v_scale;
  const MASK* mask_rows[2];

  DEVICE const ELEMENT* any_query() const { return q; }
  DEVICE const ELEMENT* query(int row) const { return first_row + row < a.q_length ? q + int64_t(first_row + row) * a.q.row : nullptr; }
  DEVICE ELEMENT* output(int row) const { return y + int64_t(first_row + row) * a.y.row; }
  DEVICE int row_begin(int) const { return 0; }
  DEVICE int row_end(int row) const { return a.visible(first_row + row); }
  DEVICE bool sees_all(int, int last) const { return last <= row_end(0); }
  DEVICE bool find(int key, const ELEMENT*& from_k, const ELEMENT*& from_v) const {
    const bool valid = key < a.k_length;
    from_k = k + int64_t(valid ? key : 0) * a.k.row, from_v = v + int64_t(valid ? key : 0) * a.v.row;
    return valid;
  }
  DEVICE float finish(float x, int i, int key) const { return a.finish(x, mask_rows[i], key); }
};

extern "C" __global__ void __launch_bounds__(kThreads)
    attention(const ELEMENT* q, const ELEMENT* k, const ELEMENT* v, const MASK* mask, ELEMENT* __restrict__ y, AttentionArgs a) {
  wait_for_previous();
  allow_next();
  const int head = blockIdx.y, kv_head = head / a.group;
  const int64_t batch = blockIdx.z;
  const int tile = a.is_causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x;  // the longest first
  DenseProblem p{a};
  p.q = q + batch * a.q.batch + head * a.q.head;
  p.k = k + batch * a.k.batch + kv_head * a.k.head;
  p.v = v + batch * a.v.batch + kv_head * a.v.head;
  p.y = y + batch * a.y.batch + head * a.y.head;
  p.first_row = tile * kTileRows;
  p.begin = 0, p.end = p.row_end(min(kTileRows, a.q_length - p.first_row) - 1);
  p.scale = a.scale, p.v_scale = 1.f;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = min(p.first_row + int(threadIdx.x / 32) / WARPS_N * 16 + int(threadIdx.x % 32) / 4 + i * 8, a.q_length - 1);
    p.mask_rows[i] = mask + batch * a.mask[0] + head * a.mask[1] + row * a.mask[2];
  }
  flash(p);
}
