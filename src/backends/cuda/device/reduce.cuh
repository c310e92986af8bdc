// Reductions with an accumulator of any type: 64-bit integers for integers, float for floats, double for f64.
#pragma once
#include "elementwise.cuh"

template <class A>
struct Limits;  // of an element type, as the accumulator of its kind: what a maximum or minimum over nothing is
template <>
struct Limits<float> {
  static DEVICE float lowest() { return -__int_as_float(0x7f800000); }
  static DEVICE float highest() { return __int_as_float(0x7f800000); }
};
template <>
struct Limits<f16> : Limits<float> {};
template <>
struct Limits<bf16> : Limits<float> {};
template <>
struct Limits<double> {
  static DEVICE double lowest() { return -__longlong_as_double(0x7ff0000000000000ll); }
  static DEVICE double highest() { return __longlong_as_double(0x7ff0000000000000ll); }
};
#define INTEGER_LIMITS(T, A, low, high)        \
  template <>                                  \
  struct Limits<T> {                           \
    static DEVICE A lowest() { return low; }   \
    static DEVICE A highest() { return high; } \
  };
INTEGER_LIMITS(bool, uint64_t, 0, 1)
INTEGER_LIMITS(int8_t, int64_t, -128, 127)
INTEGER_LIMITS(uint8_t, uint64_t, 0, 255)
INTEGER_LIMITS(int16_t, int64_t, -32768, 32767)
INTEGER_LIMITS(uint16_t, uint64_t, 0, 65535)
INTEGER_LIMITS(int32_t, int64_t, -2147483648ll, 2147483647ll)
INTEGER_LIMITS(uint32_t, uint64_t, 0, 4294967295ull)
INTEGER_LIMITS(int64_t, int64_t, (-9223372036854775807ll - 1), 9223372036854775807ll)
INTEGER_LIMITS(uint64_t, uint64_t, 0, 18446744073709551615ull)
#undef INTEGER_LIMITS

// E: the element type; A: its accumulator.
struct SumOf {
  template <class E, class A>
  static DEVICE A identity() {
    return A(0);
  }
  template <class A>
  static DEVICE A apply(A a, A b) {
    return a + b;
  }
};
struct ProductOf {
  template <class E, class A>
  static DEVICE A identity() {
    return A(1);
  }
  template <class A>
  static DEVICE A apply(A a, A b) {
    return a * b;
  }
};
struct MaxOf {  // NaN stays
  template <class E, class A>
  static DEVICE A identity() {
    return Limits<E>::lowest();
  }
  template <class A>
  static DEVICE A apply(A a, A b) {
    return a != a || a > b ? a : b;
  }
};
struct MinOf {
  template <class E, class A>
  static DEVICE A identity() {
    return Limits<E>::highest();
  }
  template <class A>
  static DEVICE A apply(A a, A b) {
    return a != a || a < b ? a : b;
  }
};

template <class Op, class A>
DEVICE A warp_reduce_of(A x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = Op::apply(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}
// `scratch`: kThreads / 32 elements of shared memory; every thread gets the result.
template <class Op, int kThreads, class A>
DEVICE A block_reduce_of(A x, A* scratch) {
  x = warp_reduce_of<Op>(x);
  if constexpr (kThreads > 32) {
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    x = scratch[0];
#pragma unroll
    for (int i = 1; i < kThreads / 32; ++i) x = Op::apply(x, scratch[i]);
    __syncthreads();
  }
  return x;
}
