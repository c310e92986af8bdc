// Moves neighbouring elements between memory and float registers; used by the generated epilogues (kernels/epilogue.h).
#pragma once
#include "prelude.cuh"

// kCount elements from p on; p is aligned to all of them.
template <int kCount, class T>
DEVICE void load_floats(const T* p, float (&out)[kCount]) {
  constexpr int kVector = sizeof(T) * kCount > 16 ? 16 / sizeof(T) : kCount;
#pragma unroll
  for (int i = 0; i < kCount; i += kVector) {
    const Vec<T, kVector> v = *reinterpret_cast<const Vec<T, kVector>*>(p + i);
#pragma unroll
    for (int j = 0; j < kVector; ++j) out[i + j] = to_float(v.at[j]);
  }
}

template <int kCount, class T>
DEVICE void store_floats(T* __restrict__ p, const float (&in)[kCount]) {
  constexpr int kVector = sizeof(T) * kCount > 16 ? 16 / sizeof(T) : kCount;
#pragma unroll
  for (int i = 0; i < kCount; i += kVector) {
    Vec<T, kVector> v;
#pragma unroll
    for (int j = 0; j < kVector; ++j) v.at[j] = from_float<T>(in[i + j]);
    *reinterpret_cast<Vec<T, kVector>*>(p + i) = v;
  }
}

// A load that nobody waits for: the next one of the same line finds it in L1.
template <class T>
DEVICE void touch(const T* p) {
  uint32_t unused;
  asm volatile("ld.global.u8 %0, [%1];" : "=r"(unused) : "l"(p));
}

// An input of the epilogue for kCount columns: neighbours in memory, one value for all, or apart by kStride.
template <int kStride, int kCount, class T>
DEVICE void load_extra(const T* p, float (&out)[kCount]) {
  if constexpr (kStride == 1) {
    load_floats<kCount>(p, out);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) out[i] = to_float(p[i * int64_t(kStride)]);
  }
}
