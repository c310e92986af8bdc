// What follows a library's product: scales where the library took none, a gate, the epilogue. SUM: the product's elements, which may lie
// in y where no gate follows; SCALED: 1 when they are to be multiplied by scales. GATE: a function; the product has 8 columns for it, 8
// that its results multiply, and so on, twice as many as y. Without GATE they are y's columns. ELEMENT: y; COLS: the length of its rows, a
// multiple of 8.
#include "epilogue.cuh"
#include "math.cuh"

// Columns col to col + 7 of the product's row.
template <int kCols>
DEVICE void sums_at(const SUM* sums, const float* row_scale, const float* col_scale, int64_t row, int64_t col, float (&x)[8]) {
  load_floats<8>(sums + row * kCols + col, x);
#if SCALED
  float scale[8];
  load_floats<8>(col_scale + col, scale);
  const float own = row_scale[row];
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] *= own * scale[i];
#endif
}

extern "C" __global__ void __launch_bounds__(256)
    finish_product(const SUM* sums, const float* row_scale, const float* col_scale, ELEMENT* y, int64_t rows, Extras extras) {
  wait_for_previous();
  const int64_t index = int64_t(blockIdx.x) * 256 + threadIdx.x;
  constexpr int kVectors = COLS / 8;
  if (index >= rows * kVectors) return;
  const int64_t row = index / kVectors, col = index % kVectors * 8;
  float x[8];
#ifdef GATE
  float factor[8];
  sums_at<2 * COLS>(sums, row_scale, col_scale, row, 2 * col, x);
  sums_at<2 * COLS>(sums, row_scale, col_scale, row, 2 * col + 8, factor);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = fn::GATE(x[i]) * factor[i];
#else
  sums_at<COLS>(sums, row_scale, col_scale, row, col, x);
#endif
  epilogue<8>(x, row, col, extras);
  store_floats<8>(y + row * COLS + col, x);
}
