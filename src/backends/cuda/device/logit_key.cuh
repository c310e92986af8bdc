// Logits with their ids as keys of 64 bits, so that one comparison of integers finds the largest, the lowest id among equals.
#pragma once
#include "prelude.cuh"

// The float's bits made monotonic.
DEVICE uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

DEVICE uint64_t logit_key(float x, uint32_t id) { return uint64_t(ordered(x)) << 32 | uint32_t(~id); }
DEVICE int32_t id_of(uint64_t key) { return int32_t(~uint32_t(key)); }

constexpr uint64_t kNotFinite = ~uint64_t(0);  // above every key

DEVICE uint64_t warp_largest(uint64_t key) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(~0u, key, offset);
    key = other > key ? other : key;
  }
  return key;
}
