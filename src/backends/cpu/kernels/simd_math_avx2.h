#pragma once
// Vector of floats for AVX2 with FMA and the functions of simd_math_functions.inc; the same names as simd_math_avx512.h. Only for *_avx2.cc
// files; everything is local to the file that includes it.

#include <immintrin.h>

#include <cstdint>

namespace tokamak::cpu {
namespace {

using VecF = __m256;
using VecI = __m256i;
using Mask = __m256;  // all bits of a lane, or none
constexpr int kLanes = 8;

inline VecF v_set(float x) { return _mm256_set1_ps(x); }
inline VecF v_zero() { return _mm256_setzero_ps(); }
inline VecF v_load(const float* p) { return _mm256_loadu_ps(p); }
inline void v_store(float* p, VecF x) { _mm256_storeu_ps(p, x); }
// The first `count` lanes (0 to kLanes); the others are zero, and their memory is not touched.
inline Mask v_first(int count) {
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
}
inline VecF v_load(Mask mask, const float* p) { return _mm256_maskload_ps(p, _mm256_castps_si256(mask)); }
inline void v_store(Mask mask, float* p, VecF x) { _mm256_maskstore_ps(p, _mm256_castps_si256(mask), x); }

inline VecF v_add(VecF a, VecF b) { return _mm256_add_ps(a, b); }
inline VecF v_sub(VecF a, VecF b) { return _mm256_sub_ps(a, b); }
inline VecF v_mul(VecF a, VecF b) { return _mm256_mul_ps(a, b); }
inline VecF v_div(VecF a, VecF b) { return _mm256_div_ps(a, b); }
inline VecF v_fma(VecF a, VecF b, VecF c) { return _mm256_fmadd_ps(a, b, c); }    // a * b + c
inline VecF v_fnma(VecF a, VecF b, VecF c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a * b
// As the instructions: the second operand when either is NaN.
inline VecF v_max(VecF a, VecF b) { return _mm256_max_ps(a, b); }
inline VecF v_min(VecF a, VecF b) { return _mm256_min_ps(a, b); }
inline VecF v_sqrt(VecF a) { return _mm256_sqrt_ps(a); }
inline VecF v_round(VecF a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline VecF v_abs(VecF a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline VecF v_neg(VecF a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
inline VecF v_copysign(VecF magnitude, VecF sign) {
  const VecF bit = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
}

inline Mask v_lt(VecF a, VecF b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline Mask v_le(VecF a, VecF b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
inline Mask v_eq(VecF a, VecF b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
inline VecF v_select(Mask mask, VecF yes, VecF no) { return _mm256_blendv_ps(no, yes, mask); }

// 2^n for integral n in [-126, 127].
inline VecF v_power_of_two(VecI n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23)); }
// x * 2^n for integral n in [-252, 254], in two steps: to infinity and through the subnormals.
inline VecF v_scale(VecF x, VecF n) {
  const VecI whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
  return v_mul(v_mul(x, v_power_of_two(half)), v_power_of_two(_mm256_sub_epi32(whole, half)));
}
// x = m * 2^e with m in [0.5, 1), for positive normal or subnormal x.
inline VecF v_mantissa(VecF x) {
  x = v_select(v_lt(x, v_set(0x1p-126f)), v_mul(x, v_set(0x1p24f)), x);
  const VecI bits = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x007fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x3f000000)));
}
inline VecF v_exponent(VecF x) {
  const Mask tiny = v_lt(x, v_set(0x1p-126f));
  x = v_select(tiny, v_mul(x, v_set(0x1p24f)), x);
  const VecF e = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(x), 23), _mm256_set1_epi32(126)));
  return v_select(tiny, v_sub(e, v_set(24.0f)), e);
}
// 1 / x to about 1 ulp.
inline VecF v_reciprocal(VecF x) { return v_div(v_set(1.0f), x); }

inline float v_reduce_add(VecF x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float v_reduce_max(VecF x) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
inline float v_reduce_min(VecF x) {
  __m128 s = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_min_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_min_ss(s, _mm_movehdup_ps(s)));
}

#include "backends/cpu/kernels/simd_math_functions.inc"

}  // namespace
}  // namespace tokamak::cpu
