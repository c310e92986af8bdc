// softmax and log_softmax along the contiguous axis: a warp or a block a row (row_plan.h), the row in registers, or read once a pass where
// it is too long. ELEMENT; LOG: log_softmax.
#include "row.cuh"

constexpr int kStep = ROW_THREADS * WIDTH, kUnroll = IN_REGISTERS ? ITEMS : 1;

extern "C" __global__ void __launch_bounds__(ROW_THREADS* BLOCK_ROWS) softmax_rows(const ELEMENT* x, ELEMENT* y, int64_t rows) {
  __shared__ float scratch[32];
  wait_with_next();
  const int64_t row = int64_t(blockIdx.x) * BLOCK_ROWS + threadIdx.x / ROW_THREADS;
  if (row >= rows) return;
  const int lane = threadIdx.x % ROW_THREADS;
  const ELEMENT* const from = x + row * COLS;
#if IN_REGISTERS
  Vec<ELEMENT, WIDTH> held[ITEMS];
#pragma unroll
  for (int item = 0; item < ITEMS; ++item)
    if (const int col = item * kStep + lane * WIDTH; col < COLS) held[item] = load_vector<ELEMENT, WIDTH>(from + col);
#define LOAD_ROW(v) const Vec<ELEMENT, WIDTH>& v = held[item];
#else
#define LOAD_ROW(v) const Vec<ELEMENT, WIDTH> v = load_vector<ELEMENT, WIDTH>(from + col);
#endif
  float largest = MaxNaN::identity();
#pragma unroll kUnroll
  for (int item = 0; item < ITEMS; ++item) {
    const int col = item * kStep + lane * WIDTH;
    if (col >= COLS) break;
    LOAD_ROW(v)
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) largest = MaxNaN::apply(largest, to_float(v.at[k]));
  }
  largest = row_reduce<MaxNaN, ROW_THREADS>(largest, scratch);
  float sum = 0;
#pragma unroll kUnroll
  for (int item = 0; item < ITEMS; ++item) {
    const int col = item * kStep + lane * WIDTH;
    if (col >= COLS) break;
    LOAD_ROW(v)
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) sum += __expf(to_float(v.at[k]) - largest);
  }
  sum = row_reduce<Sum, ROW_THREADS>(sum, scratch);
  const float log_sum = logf(sum), scale = 1.f / sum;
#pragma unroll kUnroll
  for (int item = 0; item < ITEMS; ++item) {
    const int col = item * kStep + lane * WIDTH;
    if (col >= COLS) break;
    LOAD_ROW(v)
    Vec<ELEMENT, WIDTH> out;
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      const float e = to_float(v.at[k]) - largest;
      out.at[k] = from_float<ELEMENT>(LOG ? e - log_sum : __expf(e) * scale);
    }
    store_vector<ELEMENT, WIDTH>(y + row * COLS + col, out);
  }
}
