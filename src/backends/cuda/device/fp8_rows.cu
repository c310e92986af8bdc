// Rows of x as E4M3 with a scale a row: the largest magnitude becomes 448. A warp or a block a row (row_plan.h), which stays in registers.
// ELEMENT: x. HAS_NORM: rows go through rms_norm first, rounded to ELEMENT; NORM_ELEMENT: its weights. A row of zeros stays zero.
// TOKENS: 0, the codes are [rows, COLS]; else they lie as linear_wgmma.cu's copy engine takes them: of TOKENS rows together, 128 columns
// after the other, rows of 128 bytes as operand_descriptor() has them (COLS is a multiple of 128).
#include "row.cuh"

constexpr int kStep = ROW_THREADS * WIDTH;

// Codes of two values, the first in the low byte; what rounding lifts beyond 448 saturates.
DEVICE uint32_t e4m3_pair(float low, float high) {
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
}

// Where the code of a row's column goes; those of a vector lie together.
DEVICE int64_t place(int64_t row, int col) {
#if TOKENS > 0
  const int64_t box = row / TOKENS * (COLS / 128) + col / 128;
  return (box * TOKENS + row % TOKENS) * 128 + (col % 128 / 16 ^ int(row % 8)) * 16 + col % 16;
#else
  return row * COLS + col;
#endif
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS* BLOCK_ROWS)
    fp8_rows(const ELEMENT* x, Weights<NORM_ELEMENT> weight, uint8_t* __restrict__ y, float* __restrict__ scales, int64_t rows,
             float epsilon) {
  __shared__ float scratch[32];
  const int lane = threadIdx.x % ROW_THREADS;
#if HAS_NORM
  Vec<NORM_ELEMENT, WIDTH> weights[ITEMS];
  load_early<COLS, kStep>(weight, lane, weights);
#endif
  wait_with_next();
  const int64_t row = int64_t(blockIdx.x) * BLOCK_ROWS + threadIdx.x / ROW_THREADS;
  if (row >= rows) return;  // a whole warp: blocks that reduce have one row
  float v[ITEMS][WIDTH];
#pragma unroll
  for (int item = 0; item < ITEMS; ++item) {
    const int col = item * kStep + lane * WIDTH;
    if (col >= COLS) {
#pragma unroll
      for (int k = 0; k < WIDTH; ++k) v[item][k] = 0;
      continue;
    }
    const Vec<ELEMENT, WIDTH> in = load_vector<ELEMENT, WIDTH>(x + row * COLS + col);
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) v[item][k] = to_float(in.at[k]);
  }
#if HAS_NORM
  float square = 0;
#pragma unroll
  for (int item = 0; item < ITEMS; ++item)
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) square += v[item][k] * v[item][k];
  square = row_reduce<Sum, ROW_THREADS>(square, scratch);
  const float inverse_rms = rsqrtf(square * (1.f / COLS) + epsilon);
#pragma unroll
  for (int item = 0; item < ITEMS; ++item) {
    if (item * kStep + lane * WIDTH >= COLS) break;
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) v[item][k] = to_float(from_float<ELEMENT>(v[item][k] * inverse_rms * to_float(weights[item].at[k])));
  }
#endif
  float largest = 0;
#pragma unroll
  for (int item = 0; item < ITEMS; ++item)
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) largest = Max::apply(largest, fabsf(v[item][k]));
  // Not so small that its inverse is infinite.
  largest = Max::apply(row_reduce<Max, ROW_THREADS>(largest, scratch), 0x1p-100f);
  const float inverse = 448.f / largest;
  if (lane == 0) scales[row] = largest / 448.f;
#pragma unroll
  for (int item = 0; item < ITEMS; ++item) {
    const int col = item * kStep + lane * WIDTH;
    if (col >= COLS) break;
    Vec<uint32_t, WIDTH / 4> out;
#pragma unroll
    for (int k = 0; k < WIDTH; k += 4)
      out.at[k / 4] =
          e4m3_pair(v[item][k] * inverse, v[item][k + 1] * inverse) | e4m3_pair(v[item][k + 2] * inverse, v[item][k + 3] * inverse) << 16;
    store_vector(reinterpret_cast<uint32_t*>(y + place(row, col)), out);
  }
}
