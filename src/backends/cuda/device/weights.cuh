// Weights of linear layers as they lie in memory (rows of K, dense): streaming loads, and conversion to float or to pairs of 16-bit floats
// for the tensor cores. 4-bit weights are two a byte, the low nibble first, in two's complement.
#pragma once
#include "prelude.cuh"

struct i4;  // a tag: half a byte

// kBytes that are read once: past L1, the following sectors already on their way to L2.
template <int kBytes>
struct Raw {
  uint32_t word[kBytes < 4 ? 1 : kBytes / 4];
};

template <int kBytes>
DEVICE Raw<kBytes> load_streaming(const void* p) {
  Raw<kBytes> raw;
  if constexpr (kBytes == 16)
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(raw.word[0]), "=r"(raw.word[1]), "=r"(raw.word[2]), "=r"(raw.word[3])
                 : "l"(p));
  else if constexpr (kBytes == 8)
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0, %1}, [%2];" : "=r"(raw.word[0]), "=r"(raw.word[1]) : "l"(p));
  else if constexpr (kBytes == 4) raw.word[0] = *static_cast<const uint32_t*>(p);
  else if constexpr (kBytes == 2) raw.word[0] = *static_cast<const uint16_t*>(p);
  else raw.word[0] = *static_cast<const uint8_t*>(p);
  return raw;
}

// --- to float ---

// Of each element type: kBits, and to_float() of the element at the bottom of `bits`.
template <class W>
struct Weight;
template <>
struct Weight<float> {
  static constexpr int kBits = 32;
  static DEVICE float to_float(uint32_t bits) { return __uint_as_float(bits); }
};
template <>
struct Weight<f16> {
  static constexpr int kBits = 16;
  static DEVICE float to_float(uint32_t bits) { return ::to_float(f16{uint16_t(bits)}); }
};
template <>
struct Weight<bf16> {
  static constexpr int kBits = 16;
  static DEVICE float to_float(uint32_t bits) { return __uint_as_float(bits << 16); }
};
template <>
struct Weight<int8_t> {
  static constexpr int kBits = 8;
  static DEVICE float to_float(uint32_t bits) { return float(int8_t(bits)); }
};
template <>
struct Weight<i4> {
  static constexpr int kBits = 4;
  static DEVICE float to_float(uint32_t bits) { return float(int32_t(bits << 28) >> 28); }
};
template <>
struct Weight<f8e4m3> {
  static constexpr int kBits = 8;
  static DEVICE float to_float(uint32_t bits) {
#if TOKAMAK_ARCH >= 89
    uint32_t pair;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(uint16_t(bits & 0xff)));
    return ::to_float(f16{uint16_t(pair)});
#else
    // The exponent's bias is 7 where float has 127; subnormals come out right too.
    const float magnitude = (bits & 0x7f) == 0x7f ? __uint_as_float(0x7fffffff) : __uint_as_float((bits & 0x7f) << 20) * 0x1p120f;
    return bits & 0x80 ? -magnitude : magnitude;
#endif
  }
};

// Element i of a raw load.
template <class W, int kBytes>
DEVICE float weight_at(const Raw<kBytes>& raw, int i) {
  constexpr int kBits = Weight<W>::kBits;
  return Weight<W>::to_float(raw.word[i * kBits / 32] >> (i * kBits % 32));
}
