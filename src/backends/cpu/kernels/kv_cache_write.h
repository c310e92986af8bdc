#pragma once
// kv_cache_write by instruction set: one token at a time.

#include "backends/cpu/kernels/kv_cache.h"

namespace tokamak::cpu {

// One run; tensors as in the op, null where absent.
struct KvCacheWrite {
  const float *qkv = nullptr, *cos = nullptr, *sin = nullptr, *q_norm = nullptr, *k_norm = nullptr;
  const int32_t* slots = nullptr;
  void* cache = nullptr;
  float* q = nullptr;
  KvCacheLayout layout;
  int64_t heads = 1;
  int64_t half = 0;  // rotated elements of a head / 2
  bool interleaved = false;
  float epsilon = 1e-6f;

  int64_t dim() const { return layout.head_dim; }
};

struct KvCacheWriteFunctions {
  // Tokens [begin, end). Writes nothing but their rows of q and their slots' elements, so that tokens of different slots may be written at
  // once, neighbours in a bf16 pair too.
  void (*tokens)(const KvCacheWrite&, int64_t begin, int64_t end);
};

const KvCacheWriteFunctions& kv_cache_write_avx512();
const KvCacheWriteFunctions& kv_cache_write_avx2();

constexpr int64_t kMaxCachedHead = 512;  // elements

}  // namespace tokamak::cpu
