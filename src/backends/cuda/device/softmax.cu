// softmax and log_softmax along an axis that is not contiguous: neighbouring threads take neighbouring columns, Y_THREADS rows of threads
// share the axis. ELEMENT; LOG: log_softmax. Column c, element i is at x[(c / INNER * SIZE + i) * INNER + c % INNER].
#include "prelude.cuh"

extern "C" __global__ void __launch_bounds__(32 * Y_THREADS) softmax(const ELEMENT* x, ELEMENT* y, int64_t columns) {
  __shared__ float scratch[Y_THREADS][32];
  wait_with_next();
  const int64_t column = int64_t(blockIdx.x) * 32 + threadIdx.x;
  const bool inside = column < columns;
  const int64_t base = column / INNER * (int64_t(SIZE) * INNER) + column % INNER;
  float largest = Max::identity();
  if (inside)
    for (int64_t i = threadIdx.y; i < SIZE; i += Y_THREADS) largest = Max::apply(largest, to_float(x[base + i * INNER]));
  scratch[threadIdx.y][threadIdx.x] = largest;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < Y_THREADS; ++k) largest = Max::apply(largest, scratch[k][threadIdx.x]);
  __syncthreads();
  float sum = 0;
  if (inside)
    for (int64_t i = threadIdx.y; i < SIZE; i += Y_THREADS) sum += __expf(to_float(x[base + i * INNER]) - largest);
  scratch[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (!inside) return;
  sum = 0;
#pragma unroll
  for (int k = 0; k < Y_THREADS; ++k) sum += scratch[k][threadIdx.x];
  const float log_sum = logf(sum), scale = 1.f / sum;
  for (int64_t i = threadIdx.y; i < SIZE; i += Y_THREADS) {
    const float e = to_float(x[base + i * INNER]) - largest;
    y[base + i * INNER] = from_float<ELEMENT>(LOG ? e - log_sum : __expf(e) * scale);
  }
}
