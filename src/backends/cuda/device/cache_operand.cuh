// Elements of the KV cache as operands of mma: words of two 16-bit numbers. CACHE is the cache's element type.
#pragma once
#include "cache.cuh"
#include "mma.cuh"

using Chunk = Vec<uint32_t, 2 * sizeof(CACHE)>;  // eight elements

DEVICE uint32_t pack_pair(f16, float low, float high) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
DEVICE uint32_t pack_pair(bf16, float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
// Elements 2 i and 2 i + 1 as a word to multiply.
DEVICE uint32_t word(const Vec<uint32_t, 4>& x, int i) { return x.at[i]; }
DEVICE uint32_t word(const Vec<uint32_t, 2>& x, int i) { return widen_f8x2(uint16_t(x.at[i / 2] >> i % 2 * 16)); }
// An 8 x 8 matrix of 16-bit elements over the warp, transposed.
DEVICE uint32_t transposed(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
// Zeros where not `valid`. In order with other volatile instructions: what is asked for before a wait is asked for before it.
DEVICE void load_chunk(Vec<uint32_t, 4>& x, const void* from, bool valid) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %5, 0;\n\tmov.b32 %0, 0;\n\tmov.b32 %1, 0;\n\tmov.b32 %2, 0;\n\tmov.b32 %3, 0;\n\t"
      "@p ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];\n\t}"
      : "=&r"(x.at[0]), "=&r"(x.at[1]), "=&r"(x.at[2]), "=&r"(x.at[3])
      : "l"(from), "r"(int(valid)));
}
DEVICE void load_chunk(Vec<uint32_t, 2>& x, const void* from, bool valid) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %3, 0;\n\tmov.b32 %0, 0;\n\tmov.b32 %1, 0;\n\t"
      "@p ld.global.L1::no_allocate.v2.b32 {%0, %1}, [%2];\n\t}"
      : "=&r"(x.at[0]), "=&r"(x.at[1])
      : "l"(from), "r"(int(valid)));
}
DEVICE void load_shared(Vec<uint32_t, 4>& x, uint32_t address, bool valid) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %5, 0;\n\tmov.b32 %0, 0;\n\tmov.b32 %1, 0;\n\tmov.b32 %2, 0;\n\tmov.b32 %3, 0;\n\t"
      "@p ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n\t}"
      : "=&r"(x.at[0]), "=&r"(x.at[1]), "=&r"(x.at[2]), "=&r"(x.at[3])
      : "r"(address), "r"(int(valid))
      : "memory");
}
