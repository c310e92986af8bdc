// softmax and log_softmax: one block a row, the row in registers (PER_THREAD elements a thread). ELEMENT: element type. LOG: log_softmax.
// Row r, element i is at x[(r / inner * SIZE + i) * inner + r % inner].
#include "prelude.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) softmax(const ELEMENT* __restrict__ x, ELEMENT* __restrict__ y, int64_t inner) {
  __shared__ float scratch[THREADS / 32];
  wait_for_previous();
  const int64_t row = blockIdx.x;
  const int64_t base = row / inner * SIZE * inner + row % inner;
  float value[PER_THREAD];
  float largest = Max::identity();
#pragma unroll
  for (int k = 0; k < PER_THREAD; ++k) {
    const int i = k * THREADS + threadIdx.x;
    value[k] = i < SIZE ? to_float(x[base + i * inner]) : Max::identity();
    largest = Max::apply(largest, value[k]);
  }
  largest = block_reduce<Max, THREADS>(largest, scratch);
  float sum = 0;
#pragma unroll
  for (int k = 0; k < PER_THREAD; ++k)
    if (k * THREADS + threadIdx.x < SIZE) sum += __expf(value[k] - largest);
  sum = block_reduce<Sum, THREADS>(sum, scratch);
  const float log_sum = __logf(sum), scale = 1.f / sum;
#pragma unroll
  for (int k = 0; k < PER_THREAD; ++k) {
    const int i = k * THREADS + threadIdx.x;
    if (i < SIZE) y[base + i * inner] = from_float<ELEMENT>(LOG ? value[k] - largest - log_sum : __expf(value[k] - largest) * scale);
  }
}
