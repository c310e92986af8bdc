// Weights of 8 and 4 bits as pairs of 16-bit floats for warpgroup products, exactly.
#pragma once
#include "weights_mma.cuh"

// Eight weights as pairs of neighbours; `zero` as for Fragment.
template <class X, class W>
struct Pairs : Fragment<X, W> {
  using Fragment<X, W>::Fragment;
};
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
