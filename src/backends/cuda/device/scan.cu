// cumsum and cumprod. ELEMENT, ACCUMULATOR; IS_PRODUCT, EXCLUSIVE, REVERSE; SIZE along the axis, INNER behind it. scan_rows: a block of
// THREADS a row (INNER is 1). scan_columns: a thread a column.
#include "elementwise.cuh"

DEVICE ACCUMULATOR combine(ACCUMULATOR a, ACCUMULATOR b) { return IS_PRODUCT ? a * b : a + b; }

extern "C" __global__ void __launch_bounds__(THREADS) scan_rows(const ELEMENT* x, ELEMENT* __restrict__ y, int64_t) {
  __shared__ ACCUMULATOR totals[32];
  wait_with_next();
  const int64_t base = int64_t(blockIdx.x) * SIZE;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const ACCUMULATOR none = IS_PRODUCT ? 1 : 0;
  ACCUMULATOR carry = none;
  for (int64_t start = 0; start < SIZE; start += THREADS) {
    const int64_t k = start + threadIdx.x, at = base + (REVERSE ? SIZE - 1 - k : k);
    ACCUMULATOR sum = k < SIZE ? widen<ACCUMULATOR>(x[at]) : none;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const ACCUMULATOR below = __shfl_up_sync(~0u, sum, offset);
      if (lane >= offset) sum = combine(below, sum);
    }
    if (lane == 31) totals[warp] = sum;
    __syncthreads();
    ACCUMULATOR before = carry;  // all of the row before this warp
    for (int w = 0; w < THREADS / 32; ++w) {
      if (w == warp) before = carry;
      carry = combine(carry, totals[w]);
    }
    __syncthreads();
    ACCUMULATOR previous = __shfl_up_sync(~0u, sum, 1);
    if (lane == 0) previous = none;
    if (k < SIZE) y[at] = narrow<ELEMENT>(combine(before, EXCLUSIVE ? previous : sum));
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) scan_columns(const ELEMENT* x, ELEMENT* __restrict__ y, int64_t columns) {
  wait_with_next();
  const int64_t column = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  if (column >= columns) return;
  const int64_t base = column / INNER * (int64_t(SIZE) * INNER) + column % INNER;
  ACCUMULATOR total = IS_PRODUCT ? 1 : 0;
  for (int64_t k = 0; k < SIZE; ++k) {
    const int64_t at = base + (REVERSE ? SIZE - 1 - k : k) * INNER;
    const ACCUMULATOR before = total;
    total = combine(total, widen<ACCUMULATOR>(x[at]));
    y[at] = narrow<ELEMENT>(EXCLUSIVE ? before : total);
  }
}
