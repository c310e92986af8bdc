// Weights of 8 and 4 bits as pairs of 16-bit floats for warpgroup products, exactly.
#pragma once
#include "weights_mma.cuh"

// Eight weights as pairs of neighbours. An instruction takes one constant in its code; the others are held in registers, which the compiler
// does only for values that it does not know: those with `zero` added.
template <class X, class W>
struct Pairs {
  DEVICE explicit Pairs(uint32_t) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const { Fragment<X, W>::convert(words, out); }
};
DEVICE uint32_t and_xor(uint32_t a, uint32_t mask, uint32_t flip) {
  uint32_t y;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(y) : "r"(a), "r"(mask), "r"(flip));
  return y;
}
// A byte in both halves: its low nibble counts ones, its high one sixteens; both with the sign bit turned over, under an exponent.
template <>
struct Pairs<f16, i4> {
  uint32_t mask, factor;
  DEVICE explicit Pairs(uint32_t zero) : mask(0x00f0000f + zero), factor(0x2c003c00 + zero) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      out[i] = Halves<f16>::fma(and_xor(__byte_perm(words[0], 0, i * 0x1111), mask, 0x64806408), factor, 0xd480e408);
  }
};
template <>
struct Pairs<bf16, i4> {
  uint32_t mask, one;
  DEVICE explicit Pairs(uint32_t zero) : mask(0x000f000f + zero), one(0x3f803f80 + zero) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const {
    const uint32_t high = words[0] >> 4;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      out[i] = Halves<bf16>::fma(and_xor(__byte_perm(words[0], high, i * 0x1111 + 0x4400), mask, 0x43084308), one, 0xc308c308);
  }
};
// As Fragment has them.
template <>
struct Pairs<f16, int8_t> {
  uint32_t exponent;
  DEVICE explicit Pairs(uint32_t zero) : exponent(0x64646464 + zero) {}
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
struct Pairs<bf16, int8_t> {
  uint32_t exponent, minus_one;
  DEVICE explicit Pairs(uint32_t zero) : exponent(0x43434343 + zero), minus_one(0xbf80bf80 + zero) {}
  DEVICE void convert(const uint32_t* words, uint32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t p = __byte_perm(words[i / 2], exponent, i % 2 == 0 ? 0x4140 : 0x4342);
      out[i] = Halves<bf16>::fma(p & 0xff80ff80, minus_one, p & 0xff7fff7f);
    }
  }
};
