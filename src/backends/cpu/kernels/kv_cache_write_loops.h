#pragma once
// kv_cache_write for one instruction set; included by kv_cache_write_*.cc only.

#include <cstring>

#include "backends/cpu/kernels/kv_cache_write.h"
#include "backends/cpu/simd.h"

namespace tokamak::cpu {
namespace {

// f(i, n) for the vectors of [0, count), n lanes each.
template <class Function>
inline void each_vector(int64_t count, const Function& f) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) f(i, kLanes);
  if (i < count) f(i, count - i);
}
inline F load_part(const float* p, int64_t n) { return n == kLanes ? load(p) : load_n(p, n); }
inline void store_part(float* p, F a, int64_t n) {
  if (n == kLanes) store(p, a);
  else store_n(p, a, n);
}

inline void rms_norm_head(const float* x, const float* scale, int64_t dim, float epsilon, float* y) {
  F squares = zero();
  each_vector(dim, [&](int64_t i, int64_t n) {
    const F v = load_part(x + i, n);
    squares = fma(v, v, squares);
  });
  const F inverse = set1(1 / __builtin_sqrtf(sum(squares) / static_cast<float>(dim) + epsilon));
  each_vector(dim, [&](int64_t i, int64_t n) { store_part(y + i, load_part(x + i, n) * inverse * load_part(scale + i, n), n); });
}

// y may be x.
inline void rotate_head(const KvCacheWrite& a, const float* x, const float* cos, const float* sin, float* y) {
  const int64_t half = a.half;
  if (a.interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const float first = x[2 * i], second = x[2 * i + 1];
      y[2 * i] = first * cos[i] - second * sin[i];
      y[2 * i + 1] = first * sin[i] + second * cos[i];
    }
  } else {
    each_vector(half, [&](int64_t i, int64_t n) {
      const F first = load_part(x + i, n), second = load_part(x + half + i, n), c = load_part(cos + i, n), s = load_part(sin + i, n);
      store_part(y + i, fnma(second, s, first * c), n);
      store_part(y + half + i, fma(first, s, second * c), n);
    });
  }
  if (y != x) std::memcpy(y + 2 * half, x + 2 * half, static_cast<size_t>(a.dim() - 2 * half) * sizeof(float));
}

// Norm and rope of one head, from x to y.
inline void prepare_head(const KvCacheWrite& a, int64_t token, const float* x, const float* norm, float* y) {
  if (norm != nullptr) {
    rms_norm_head(x, norm, a.dim(), a.epsilon, y);
    x = y;
  }
  if (a.half > 0) rotate_head(a, x, a.cos + token * a.half, a.sin + token * a.half, y);
  else if (y != x) std::memcpy(y, x, static_cast<size_t>(a.dim()) * sizeof(float));
}

inline void to_bf16(const float* x, int64_t dim, uint16_t* y) {  // to whole vectors
  for (int64_t d = 0; d < dim; d += kLanes) store_bfloat16(y + d, load_part(x + d, std::min(dim - d, kLanes)));
}

// 4-byte words to every 16th place.
inline void scatter_words(const void* from, int64_t count, uint32_t* to) {
  const auto* const words = static_cast<const char*>(from);
  for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * kFragment, words + i * 4, 4);
}

// bf16 elements to every other place. The places between belong to another token, which another thread may be writing.
inline void store_every_other(const uint16_t* from, int64_t dim, uint16_t* to) {
  int64_t d = 0;
#if defined(__AVX512F__)
  for (; d + 16 <= dim; d += 16) {
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + d)));
    _mm512_mask_storeu_epi16(to + 2 * d, 0x55555555u, words);
  }
#endif
  for (; d < dim; ++d) to[2 * d] = from[d];
}

void write_tokens(const KvCacheWrite& a, int64_t begin, int64_t end) {
  const KvCacheLayout& layout = a.layout;
  const int64_t dim = a.dim(), kv_heads = layout.kv_heads, width = (a.heads + 2 * kv_heads) * dim;
  float head[kMaxCachedHead];
  uint16_t narrow[kMaxCachedHead];
  for (int64_t t = begin; t < end; ++t) {
    const float* const q = a.qkv + t * width;
    for (int64_t h = 0; h < a.heads; ++h) prepare_head(a, t, q + h * dim, a.q_norm, a.q + (t * a.heads + h) * dim);
    const int64_t slot = a.slots[t];
    if (slot < 0 || slot >= layout.num_slots()) continue;
    const int64_t block = slot / layout.block_size, j = slot % layout.block_size;
    for (int64_t h = 0; h < kv_heads; ++h) {
      const float* const k = q + (a.heads + h) * dim;
      const float* const v = k + kv_heads * dim;
      const int64_t key = layout.plane(block, 0, h) + layout.key(j, 0), value = layout.plane(block, 1, h) + layout.value(j, 0);
      prepare_head(a, t, k, a.k_norm, head);
      if (layout.is_bf16) {
        auto* const cache = static_cast<uint16_t*>(a.cache);
        to_bf16(head, dim, narrow);
        scatter_words(narrow, dim / 2, reinterpret_cast<uint32_t*>(cache + key));
        to_bf16(v, dim, narrow);
        store_every_other(narrow, dim, cache + value);
      } else {
        auto* const cache = static_cast<float*>(a.cache);
        scatter_words(head, dim, reinterpret_cast<uint32_t*>(cache + key));
        std::memcpy(cache + value, v, static_cast<size_t>(dim) * sizeof(float));
      }
    }
  }
}

}  // namespace
}  // namespace tokamak::cpu
