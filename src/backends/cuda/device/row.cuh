// Reductions over one row held by THREADS threads: a warp, or a whole block. Threads are numbered within the row; with a warp a row, a
// block may hold several rows.
#pragma once
#include "elementwise.cuh"

template <class Op, int kThreads>
DEVICE float row_reduce(float x, float* scratch) {
  if constexpr (kThreads == 32) return warp_reduce<Op>(x);
  else return block_reduce<Op, kThreads>(x, scratch);
}

// Weights at a thread's columns of a row, kStep from one vector to the next, before wait_for_previous().
template <int kCols, int kStep, class T, int kWidth, int kItems>
DEVICE void load_early(const T* row, int lane, Vec<T, kWidth> (&v)[kItems]) {
#pragma unroll
  for (int item = 0; item < kItems; ++item)
    if (const int col = item * kStep + lane * kWidth; col < kCols) v[item] = load_early<T, kWidth>(row + col);
}

struct MaxNaN {  // NaN wherever it stands
  static DEVICE float identity() { return -__int_as_float(0x7f800000); }
  static DEVICE float apply(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
  }
};
struct MinNaN {
  static DEVICE float identity() { return __int_as_float(0x7f800000); }
  static DEVICE float apply(float a, float b) {
    float y;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
  }
};
