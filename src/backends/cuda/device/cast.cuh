// Conversions between element types. Floats to integers truncate and saturate at 32 and 64 bits; narrower integers take the low bits of
// that. Meaning: backends/cpu/kernels/ref/cast.cc.
#pragma once
#include "prelude.cuh"

// --- 8-bit floats: exponent and mantissa bits, bias, largest finite code; FNUZ forms have one zero and NaN at 0x80 ---

template <int kMantissa, int kBias, int kMaxCode, bool kInfinity, bool kFnuz>
struct SmallFloat {
  uint8_t bits;

  DEVICE float value() const {
    const int code = bits & 0x7f;
    const float nan = __int_as_float(0x7fc00000);
    if (kFnuz && bits == 0x80) return nan;
    float y;
    if (code > kMaxCode) {
      y = kInfinity && code == kMaxCode + 1 ? __int_as_float(0x7f800000) : nan;
    } else {
      const int exponent = code >> kMantissa, mantissa = code & ((1 << kMantissa) - 1);
      const int shift = (exponent == 0 ? 1 : exponent) - kBias - kMantissa;
      y = float(exponent == 0 ? mantissa : mantissa + (1 << kMantissa)) * __int_as_float((127 + shift) << 23);
    }
    return bits & 0x80 ? -y : y;
  }

  static DEVICE SmallFloat of(float x, bool saturate) {
    const uint8_t sign = __float_as_uint(x) >> 31 ? 0x80 : 0;
    const uint8_t nan = kFnuz ? 0x80 : 0x7f | sign;
    if (x != x) return {nan};
    const float magnitude = fabsf(x);
    int code;
    if (magnitude == __int_as_float(0x7f800000)) {
      code = kMaxCode + 1;
    } else {
      int exponent = int(__float_as_uint(magnitude) >> 23) - 127;
      if (exponent < 1 - kBias) exponent = 1 - kBias;
      // The mantissa as an integer, exactly scaled and rounded to even; a carry moves into the exponent by itself.
      const float scaled = magnitude * __int_as_float((127 + kMantissa - exponent) << 23);
      code = ((exponent + kBias - 1) << kMantissa) + int(rintf(scaled));
    }
    if (code > kMaxCode) {
      if (saturate) code = kMaxCode;
      else if (kInfinity) code = kMaxCode + 1;
      else return {nan};
    }
    if (kFnuz && code == 0) return {0};
    return {uint8_t(code | sign)};
  }
};
using f8e4m3fn = SmallFloat<3, 7, 0x7e, false, false>;
using f8e4m3fnuz = SmallFloat<3, 8, 0x7f, false, true>;
using f8e5m2 = SmallFloat<2, 15, 0x7b, true, false>;
using f8e5m2fnuz = SmallFloat<2, 16, 0x7f, false, true>;

// --- what a conversion goes through: float for the float types, double for f64, itself for integers ---

template <class T>
struct Number {
  using type = T;
  static DEVICE T of(T x) { return x; }
};
template <>
struct Number<f16> {
  using type = float;
  static DEVICE float of(f16 x) { return to_float(x); }
};
template <>
struct Number<bf16> {
  using type = float;
  static DEVICE float of(bf16 x) { return to_float(x); }
};
template <int M, int B, int C, bool I, bool F>
struct Number<SmallFloat<M, B, C, I, F>> {
  using type = float;
  static DEVICE float of(SmallFloat<M, B, C, I, F> x) { return x.value(); }
};

template <class To, class From>
struct ToInteger {  // from integers: the low bits
  static DEVICE To apply(From x) { return To(x); }
};
// Up to 32 bits signed and 16 bits unsigned go through int.
DEVICE int to_int(float x) { return x != x ? 0 : __float2int_rz(x); }
DEVICE int to_int(double x) { return x != x ? 0 : __double2int_rz(x); }
DEVICE int64_t to_int64(float x) { return x != x ? 0 : __float2ll_rz(x); }
DEVICE int64_t to_int64(double x) { return x != x ? 0 : __double2ll_rz(x); }
template <class F>
DEVICE uint32_t to_uint32(F x) {
  return x >= F(4294967296.) ? 0xffffffffu : uint32_t(to_int64(x));
}
DEVICE uint64_t to_uint64(float x) { return x <= -1.f ? uint64_t(to_int64(x)) : x != x ? 0 : __float2ull_rz(x); }
DEVICE uint64_t to_uint64(double x) { return x <= -1. ? uint64_t(to_int64(x)) : x != x ? 0 : __double2ull_rz(x); }
#define FROM_FLOATS(To, function)                                \
  template <>                                                    \
  struct ToInteger<To, float> {                                  \
    static DEVICE To apply(float x) { return To(function(x)); }  \
  };                                                             \
  template <>                                                    \
  struct ToInteger<To, double> {                                 \
    static DEVICE To apply(double x) { return To(function(x)); } \
  };
FROM_FLOATS(int8_t, to_int)
FROM_FLOATS(uint8_t, to_int)
FROM_FLOATS(int16_t, to_int)
FROM_FLOATS(uint16_t, to_int)
FROM_FLOATS(int32_t, to_int)
FROM_FLOATS(uint32_t, to_uint32)
FROM_FLOATS(int64_t, to_int64)
FROM_FLOATS(uint64_t, to_uint64)
#undef FROM_FLOATS

template <class To>
struct Convert {
  template <class From>
  static DEVICE To apply(From x, bool) {
    return ToInteger<To, From>::apply(x);
  }
};
template <>
struct Convert<float> {
  template <class From>
  static DEVICE float apply(From x, bool) {
    return float(x);
  }
};
template <>
struct Convert<double> {
  template <class From>
  static DEVICE double apply(From x, bool) {
    return double(x);
  }
};
template <>
struct Convert<f16> {
  template <class From>
  static DEVICE f16 apply(From x, bool) {
    return from_float<f16>(float(x));
  }
};
template <>
struct Convert<bf16> {
  template <class From>
  static DEVICE bf16 apply(From x, bool) {
    return from_float<bf16>(float(x));
  }
};
template <>
struct Convert<bool> {
  template <class From>
  static DEVICE bool apply(From x, bool) {
    return x != From(0);
  }
};
template <int M, int B, int C, bool I, bool F>
struct Convert<SmallFloat<M, B, C, I, F>> {
  template <class From>
  static DEVICE SmallFloat<M, B, C, I, F> apply(From x, bool saturate) {
    return SmallFloat<M, B, C, I, F>::of(float(x), saturate);
  }
};

// x as a To; `saturate` is for 8-bit floats.
template <class To, class From>
DEVICE To convert(From x, bool saturate = true) {
  return Convert<To>::apply(Number<From>::of(x), saturate);
}
