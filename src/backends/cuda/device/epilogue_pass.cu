// An epilogue in a pass of its own, in place, behind a library's product or convolution. ELEMENT; COLS: the length of a row; VEC: divides
// it.
#include "epilogue.cuh"

extern "C" __global__ void __launch_bounds__(256) epilogue_pass(ELEMENT* y, int64_t rows, Extras extras) {
  wait_for_previous();
  const int64_t index = int64_t(blockIdx.x) * 256 + threadIdx.x;
  constexpr int kVectors = COLS / VEC;
  if (index >= rows * kVectors) return;
  const int64_t row = index / kVectors, col = index % kVectors * VEC;
  float x[VEC];
  load_floats<VEC>(y + row * COLS + col, x);
  epilogue<VEC>(x, row, col, extras);
  store_floats<VEC>(y + row * COLS + col, x);
}
