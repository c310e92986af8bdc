#pragma once
// Vector of floats for AVX-512 and the functions of simd_math_functions.inc. Only for *_avx512*.cc files; everything is local to the file
// that includes it, so that no AVX-512 code becomes a shared inline symbol.

#include <immintrin.h>

#include <cstdint>

namespace tokamak::cpu {
namespace {

using VecF = __m512;
using VecI = __m512i;
using Mask = __mmask16;
constexpr int kLanes = 16;

inline VecF v_set(float x) { return _mm512_set1_ps(x); }
inline VecF v_zero() { return _mm512_setzero_ps(); }
inline VecF v_load(const float* p) { return _mm512_loadu_ps(p); }
inline void v_store(float* p, VecF x) { _mm512_storeu_ps(p, x); }
// The first `count` lanes (0 to kLanes); the others are zero, and their memory is not touched.
inline Mask v_first(int count) { return static_cast<Mask>((1u << count) - 1); }
inline VecF v_load(Mask mask, const float* p) { return _mm512_maskz_loadu_ps(mask, p); }
inline void v_store(Mask mask, float* p, VecF x) { _mm512_mask_storeu_ps(p, mask, x); }

inline VecF v_add(VecF a, VecF b) { return _mm512_add_ps(a, b); }
inline VecF v_sub(VecF a, VecF b) { return _mm512_sub_ps(a, b); }
inline VecF v_mul(VecF a, VecF b) { return _mm512_mul_ps(a, b); }
inline VecF v_div(VecF a, VecF b) { return _mm512_div_ps(a, b); }
inline VecF v_fma(VecF a, VecF b, VecF c) { return _mm512_fmadd_ps(a, b, c); }    // a * b + c
inline VecF v_fnma(VecF a, VecF b, VecF c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b
// As the instructions: the second operand when either is NaN.
inline VecF v_max(VecF a, VecF b) { return _mm512_max_ps(a, b); }
inline VecF v_min(VecF a, VecF b) { return _mm512_min_ps(a, b); }
inline VecF v_sqrt(VecF a) { return _mm512_sqrt_ps(a); }
inline VecF v_round(VecF a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline VecF v_abs(VecF a) { return _mm512_abs_ps(a); }
inline VecF v_neg(VecF a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
inline VecF v_copysign(VecF magnitude, VecF sign) {
  return _mm512_castsi512_ps(
      _mm512_ternarylogic_epi32(_mm512_castps_si512(magnitude), _mm512_castps_si512(sign), _mm512_set1_epi32(INT32_MIN), 0xd8));
}

inline Mask v_lt(VecF a, VecF b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask v_le(VecF a, VecF b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
inline Mask v_eq(VecF a, VecF b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline VecF v_select(Mask mask, VecF yes, VecF no) { return _mm512_mask_blend_ps(mask, no, yes); }

// x * 2^n for integral n, to infinity and through the subnormals.
inline VecF v_scale(VecF x, VecF n) { return _mm512_scalef_ps(x, n); }
// x = m * 2^e with m in [0.5, 1), for positive normal or subnormal x.
inline VecF v_mantissa(VecF x) { return _mm512_getmant_ps(x, _MM_MANT_NORM_p5_1, _MM_MANT_SIGN_zero); }
inline VecF v_exponent(VecF x) { return _mm512_add_ps(_mm512_getexp_ps(x), _mm512_set1_ps(1.0f)); }
// 1 / x to about 1 ulp for normal x and 1 / x; estimate and one Newton step.
inline VecF v_reciprocal(VecF x) {
  const VecF r = _mm512_rcp14_ps(x);
  return v_fma(r, v_fnma(x, r, v_set(1.0f)), r);
}

inline float v_reduce_add(VecF x) { return _mm512_reduce_add_ps(x); }
inline float v_reduce_max(VecF x) { return _mm512_reduce_max_ps(x); }
inline float v_reduce_min(VecF x) { return _mm512_reduce_min_ps(x); }

#include "backends/cpu/kernels/simd_math_functions.inc"

}  // namespace
}  // namespace tokamak::cpu
