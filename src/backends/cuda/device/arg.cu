// argmax and argmin: i64 indices along an axis. ELEMENT, COMPUTE; IS_MAX; LAST: of equal elements the last. SIZE along the axis, INNER
// behind it. NaN is never chosen but where it comes first, as comparing from the front has it. arg_rows: THREADS a row (INNER is 1).
// arg_columns: a thread a column.
#include "elementwise.cuh"

struct Best {
  COMPUTE value;
  int64_t index;  // -1: none yet
};
DEVICE Best better(const Best& a, const Best& b) {
  if (b.index < 0) return a;
  if (a.index < 0) return b;
  if (a.value == b.value) return (LAST ? a.index > b.index : a.index < b.index) ? a : b;
  return (IS_MAX ? a.value > b.value : a.value < b.value) ? a : b;
}
DEVICE Best shuffled(const Best& a, int offset) { return {__shfl_xor_sync(~0u, a.value, offset), __shfl_xor_sync(~0u, a.index, offset)}; }

extern "C" __global__ void __launch_bounds__(THREADS) arg_rows(const ELEMENT* x, int64_t* __restrict__ y, int64_t) {
  __shared__ Best scratch[32];
  wait_with_next();
  const ELEMENT* const row = x + int64_t(blockIdx.x) * SIZE;
  Best best{COMPUTE(0), -1};
  for (int64_t k = threadIdx.x; k < SIZE; k += THREADS) {
    const COMPUTE v = widen<COMPUTE>(row[k]);
    if (v == v) best = better(best, {v, k});
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) best = better(best, shuffled(best, offset));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < THREADS / 32; ++w) best = better(best, scratch[w]);
  const COMPUTE first = widen<COMPUTE>(row[0]);
  y[blockIdx.x] = first != first || best.index < 0 ? 0 : best.index;
}

extern "C" __global__ void __launch_bounds__(THREADS) arg_columns(const ELEMENT* x, int64_t* __restrict__ y, int64_t columns) {
  wait_with_next();
  const int64_t column = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  if (column >= columns) return;
  const ELEMENT* const from = x + column / INNER * (int64_t(SIZE) * INNER) + column % INNER;
  COMPUTE best = widen<COMPUTE>(from[0]);
  int64_t index = 0;
  for (int64_t k = 1; k < SIZE; ++k) {
    const COMPUTE v = widen<COMPUTE>(from[k * INNER]);
    if ((IS_MAX ? v > best : v < best) || (LAST && v == best)) best = v, index = k;
  }
  y[column] = index;
}
