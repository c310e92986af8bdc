// Keys, values and queries on their way to shared memory as ELEMENT (f16 or bf16).
#pragma once
#include "cache.cuh"
#include "exp2.cuh"
#include "mma.cuh"

template <class A, class B>
constexpr bool kSame = false;
template <class A>
constexpr bool kSame<A, A> = true;

// Eight elements of `from` to 16 bytes of shared memory as ELEMENT; zeros when not valid. Complete after copy_async_wait and a barrier.
template <class T>
DEVICE void copy_chunk(uint32_t to, const T* from, bool valid) {
  if constexpr (kSame<T, ELEMENT>) {
    copy_async_16(to, from, valid);
  } else {
    uint32_t y[4] = {};
    if (valid) {
      const auto raw = *reinterpret_cast<const Vec<T, 8>*>(from);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(T) == 1) y[i] = widen_f8x2(uint16_t(raw.at[2 * i].bits | raw.at[2 * i + 1].bits << 8));
        else y[i] = pack(ELEMENT{}, to_float(raw.at[2 * i]), to_float(raw.at[2 * i + 1]));
      }
    }
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(y[0]), "r"(y[1]), "r"(y[2]), "r"(y[3]) : "memory");
  }
}
