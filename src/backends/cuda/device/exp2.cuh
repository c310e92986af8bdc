// What attention's kernels on tensor cores share: exp2 and pairs of 16-bit floats.
#pragma once
#include "prelude.cuh"

constexpr float kLog2E = 1.4426950408889634f;

DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// To about 1e-7 of 1.
DEVICE float tanh_fast(float x) { return 1.f - __fdividef(2.f, 1.f + exp2_fast(x * (2 * kLog2E))); }
DEVICE uint32_t pack(f16, float low, float high) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
DEVICE uint32_t pack(bf16, float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
