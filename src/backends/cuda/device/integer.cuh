// Pointwise functions on integers: exact, wrapping, and defined where C++ is not. Meaning: backends/cpu/kernels/ref/binary.cc.
#pragma once
#include "prelude.cuh"

namespace integer {

template <class T>
constexpr bool kIsSigned = T(-1) < T(0);
template <class T>
struct Wide {
  using type = int64_t;
};
template <>
struct Wide<uint8_t> {
  using type = uint64_t;
};
template <>
struct Wide<uint16_t> {
  using type = uint64_t;
};
template <>
struct Wide<uint32_t> {
  using type = uint64_t;
};
template <>
struct Wide<uint64_t> {
  using type = uint64_t;
};

// Sums and products wrap: 64-bit unsigned arithmetic, of which the compiler keeps the bits that are stored.
template <class T>
DEVICE T add(T a, T b) {
  return T(uint64_t(a) + uint64_t(b));
}
template <class T>
DEVICE T sub(T a, T b) {
  return T(uint64_t(a) - uint64_t(b));
}
template <class T>
DEVICE T mul(T a, T b) {
  return T(uint64_t(a) * uint64_t(b));
}
template <class T>
DEVICE T neg(T a) {
  return T(uint64_t(0) - uint64_t(a));
}
template <class T>
DEVICE T abs(T a) {
  return a < T(0) ? neg(a) : a;
}
template <class T>
DEVICE T sign(T a) {
  return T(int(a > T(0)) - int(a < T(0)));
}
template <class T>
DEVICE T relu(T a) {
  return a < T(0) ? T(0) : a;
}
template <class T>
DEVICE T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
DEVICE T max(T a, T b) {
  return a < b ? b : a;
}
template <class T>
DEVICE T div(T a, T b) {  // by 0: 0
  if (b == T(0)) return T(0);
  if (kIsSigned<T> && b == T(-1)) return neg(a);
  return T(a / b);
}
template <class T>
DEVICE T mod(T a, T b) {  // the sign of a
  if (b == T(0) || (kIsSigned<T> && b == T(-1))) return T(0);
  return T(a % b);
}
template <class T>
DEVICE T floor_mod(T a, T b) {  // the sign of b
  const T r = mod(a, b);
  return r != T(0) && (r < T(0)) != (b < T(0)) ? T(r + b) : r;
}
template <class T>
DEVICE T shift_left(T a, T b) {
  const uint64_t by = uint64_t(b);
  return by > 63 ? T(0) : T(uint64_t(a) << by);
}
template <class T>
DEVICE T shift_right(T a, T b) {
  using W = typename Wide<T>::type;
  const uint64_t by = uint64_t(b);
  return by > 63 ? T(a < T(0) ? -1 : 0) : T(W(a) >> by);
}
template <class T>
DEVICE T prelu(T a, T b) {
  return a < T(0) ? mul(a, b) : a;
}
// `exponent` brought to 64 bits by the caller, as the base's kind of integer.
template <class T>
DEVICE T pow(T a, typename Wide<T>::type exponent) {
  using W = typename Wide<T>::type;
  if (exponent < W(0)) return a == T(1) ? T(1) : kIsSigned<T> && a == T(-1) ? (exponent % 2 == 0 ? T(1) : T(-1)) : T(0);
  uint64_t result = 1, square = uint64_t(W(a));
  for (; exponent > 0; exponent /= 2, square *= square)
    if (exponent % 2 == 1) result *= square;
  return T(result);
}

}  // namespace integer
