#pragma once
// The few vector operations that the convolution templates need, for AVX-512 and AVX2. Include only from *_avx512.cc and *_avx2.cc: all of
// it has internal linkage, so that no copy compiled for one CPU is ever entered on another.

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 says so of its own _mm512_undefined_ps
#endif
#include <immintrin.h>

#include <cstdint>

namespace tokamak::cpu {
namespace {

#ifdef __AVX512F__
struct Simd {
  using V = __m512;
  using Mask = __mmask16;
  static constexpr int kWidth = 16;
  static constexpr int kMaxNv = 4;                                                                 // vectors of a column panel
  static constexpr int max_rows(int nv) { return nv == 4 ? 6 : nv == 3 ? 8 : nv == 2 ? 12 : 10; }  // rows of a register tile
  static V zero() { return _mm512_setzero_ps(); }
  static V set1(float x) { return _mm512_set1_ps(x); }
  static V load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, V x) { _mm512_storeu_ps(p, x); }
  static Mask mask(int64_t lanes) { return lanes >= 16 ? Mask(0xffff) : Mask((1u << lanes) - 1); }
  static V load(const float* p, Mask m) { return _mm512_maskz_loadu_ps(m, p); }
  static void store(float* p, V x, Mask m) { _mm512_mask_storeu_ps(p, m, x); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V fnma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  // NaN in `x` survives both.
  static V at_least(V x, V low) { return _mm512_max_ps(low, x); }
  static V at_most(V x, V high) { return _mm512_min_ps(high, x); }
};
#else
struct Simd {
  using V = __m256;
  using Mask = __m256i;
  static constexpr int kWidth = 8;
  static constexpr int kMaxNv = 2;
  static constexpr int max_rows(int nv) { return nv == 2 ? 6 : 8; }
  static V zero() { return _mm256_setzero_ps(); }
  static V set1(float x) { return _mm256_set1_ps(x); }
  static V load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, V x) { _mm256_storeu_ps(p, x); }
  static Mask mask(int64_t lanes) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes < 8 ? lanes : 8)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static V load(const float* p, Mask m) { return _mm256_maskload_ps(p, m); }
  static void store(float* p, V x, Mask m) { _mm256_maskstore_ps(p, m, x); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V fnma(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
  static V add(V a, V b) { return _mm256_add_ps(a, b); }
  static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  static V at_least(V x, V low) { return _mm256_max_ps(low, x); }
  static V at_most(V x, V high) { return _mm256_min_ps(high, x); }
};
#endif

}  // namespace
}  // namespace tokamak::cpu
