// Weights as operands of the tensor cores: eight neighbours along k become four registers of two 16-bit floats each, exactly. Which of the
// eight share a register is the format's choice (order_like_weights() puts the other operand in the same order).
//
// An instruction takes one constant in its code; others are held in registers, which the compiler does only for values that it does not
// know: those with `zero` added, an argument of the kernel that is 0. It would take two instructions instead, and those of integers, which
// the GPU issues half as fast as others, are most of what converts a weight.
#pragma once
#include "weights.cuh"

template <class X>
struct Halves;  // arithmetic on two 16-bit floats in a register

template <>
struct Halves<f16> {
  static DEVICE uint32_t sub(uint32_t a, uint32_t b) {
    uint32_t y;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
    return y;
  }
  static DEVICE uint32_t fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t y;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
  }
};
template <>
struct Halves<bf16> {
  static DEVICE uint32_t fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t y;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
  }
  static DEVICE uint32_t sub(uint32_t a, uint32_t b) { return fma(b, 0xbf80bf80, a); }
};

DEVICE uint32_t and_xor(uint32_t a, uint32_t mask, uint32_t flip) {
  uint32_t y;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(y) : "r"(a), "r"(mask), "r"(flip));
  return y;
}

// convert(words, out): `words` hold the eight weights.
template <class X, class W>
struct Fragment {
  DEVICE explicit Fragment(uint32_t /*zero*/) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = words[i];
  }
};

// Bytes under an exponent that makes them integers: 1024 + byte in f16, of which 1152 goes again; bf16 has seven bits below its first, so
// the eighth (the sign) becomes part of what is subtracted: 128 + low bits - (128 or 256).
template <>
struct Fragment<f16, int8_t> {
  uint32_t exponent;
  DEVICE explicit Fragment(uint32_t zero) : exponent(0x64646464 + zero) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t biased = words[i] ^ 0x80808080;
      out[2 * i] = Halves<f16>::sub(__byte_perm(biased, exponent, 0x4140), 0x64806480);
      out[2 * i + 1] = Halves<f16>::sub(__byte_perm(biased, exponent, 0x4342), 0x64806480);
    }
  }
};
template <>
struct Fragment<bf16, int8_t> {
  uint32_t exponent, minus_one;
  DEVICE explicit Fragment(uint32_t zero) : exponent(0x43434343 + zero), minus_one(0xbf80bf80 + zero) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t p = __byte_perm(words[i / 2], exponent, i % 2 == 0 ? 0x4140 : 0x4342);
      out[i] = Halves<bf16>::fma(p & 0xff80ff80, minus_one, p & 0xff7fff7f);
    }
  }
};

// Nibbles 0 and 4, 1 and 5, 2 and 6, 3 and 7 share a register: one mask takes both. The exclusive or turns the sign bits over and sets an
// exponent. In f16 there is room for a second nibble above the first, which counts sixteens.
template <>
struct Fragment<f16, i4> {
  uint32_t low, high, sixteenth;
  DEVICE explicit Fragment(uint32_t zero) : low(0x000f000f + zero), high(0x00f000f0 + zero), sixteenth(0x2c002c00 + zero) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t two = words[0] >> (8 * i);
      out[2 * i] = Halves<f16>::sub(and_xor(two, low, 0x64086408), 0x64086408);
      out[2 * i + 1] = Halves<f16>::fma(and_xor(two, high, 0x64806480), sixteenth, 0xd480d480);
    }
  }
};
template <>
struct Fragment<bf16, i4> {
  uint32_t mask, one;
  DEVICE explicit Fragment(uint32_t zero) : mask(0x000f000f + zero), one(0x3f803f80 + zero) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = Halves<bf16>::fma(and_xor(words[0] >> (4 * i), mask, 0x43084308), one, 0xc308c308);
  }
};

#if TOKAMAK_ARCH >= 89
DEVICE uint32_t f8e4m3x2_to_f16x2(uint32_t two) {
  uint32_t y;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(y) : "h"(uint16_t(two)));
  return y;
}
template <>
struct Fragment<f16, f8e4m3> {
  DEVICE explicit Fragment(uint32_t /*zero*/) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = f8e4m3x2_to_f16x2(words[i / 2] >> (i % 2 * 16));
  }
};
template <>
struct Fragment<bf16, f8e4m3> {
  DEVICE explicit Fragment(uint32_t /*zero*/) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t pair = f8e4m3x2_to_f16x2(words[i / 2] >> (i % 2 * 16));
      const float low = to_float(f16{uint16_t(pair)}), high = to_float(f16{uint16_t(pair >> 16)});
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out[i]) : "f"(high), "f"(low));
    }
  }
};
#else
// Without the instruction: exponent and mantissa move to their places, a product corrects the exponent's bias. NaN reads as 480.
template <class X, int kShift, uint32_t kScale>
DEVICE void convert_f8e4m3(const uint32_t* words, uint32_t (&out)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t p = __byte_perm(words[i / 2], 0, i % 2 == 0 ? 0x1404 : 0x3424);
    out[i] = Halves<X>::fma(((p & 0x7f007f00) >> kShift) | (p & 0x80008000), kScale, 0x80008000);
  }
}
template <>
struct Fragment<f16, f8e4m3> {
  DEVICE explicit Fragment(uint32_t /*zero*/) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const { convert_f8e4m3<f16, 1, 0x5c005c00>(words, out); }
};
template <>
struct Fragment<bf16, f8e4m3> {
  DEVICE explicit Fragment(uint32_t /*zero*/) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const { convert_f8e4m3<bf16, 4, 0x7b807b80>(words, out); }
};
#endif

// Eight 16-bit floats in memory order to the order in which convert() puts eight weights.
template <class W>
DEVICE void order_like_weights(uint32_t (&x)[4]) {
  if constexpr (Weight<W>::kBits == 4) {
    const uint32_t a = x[0], b = x[1], c = x[2], d = x[3];
    x[0] = __byte_perm(a, c, 0x5410), x[1] = __byte_perm(a, c, 0x7632);
    x[2] = __byte_perm(b, d, 0x5410), x[3] = __byte_perm(b, d, 0x7632);
  }
}
