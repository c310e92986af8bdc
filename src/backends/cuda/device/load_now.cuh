// Loads where they are written.
#pragma once
#include "cache.cuh"

// A load that stays where it is written among volatile instructions: not moved behind a branch that may not want it.
template <class T>
DEVICE T load_now(const T* from) {
  union {
    T value;
    uint32_t words[(sizeof(T) + 3) / 4];
  } x;
  if constexpr (sizeof(T) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < sizeof(T) / 4; i += 4)
      asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(x.words[i]), "=r"(x.words[i + 1]), "=r"(x.words[i + 2]), "=r"(x.words[i + 3])
                   : "l"(reinterpret_cast<const uint32_t*>(from) + i));
  } else if constexpr (sizeof(T) == 8) {
    asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(x.words[0]), "=r"(x.words[1]) : "l"(from));
  } else if constexpr (sizeof(T) == 4) {
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(x.words[0]) : "l"(from));
  } else {
    uint16_t bits;
    static_assert(sizeof(T) == 2);
    asm volatile("ld.global.b16 %0, [%1];" : "=h"(bits) : "l"(from));
    x.words[0] = bits;
  }
  return x.value;
}

// Asked for in the order of such loads. Others the assembler may move behind what waits for one of them.
DEVICE int32_t load_in_order(const int32_t* from) {
  int32_t x;
  asm volatile("ld.volatile.global.b32 %0, [%1];" : "=r"(x) : "l"(from));
  return x;
}
