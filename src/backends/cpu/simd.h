#pragma once
// One vector of floats, 16 lanes in foo_avx512.cc files and 8 in foo_avx2.cc ones, so that a kernel is written once for both. Only
// instruction-set files include this. Everything is in an anonymous namespace: no copy may leak into code for plain x86-64.

#include <immintrin.h>

#include <cstdint>

#if !defined(__AVX2__)
#error "simd.h is for files compiled with AVX2 or AVX-512"
#endif

namespace tokamak::cpu {
namespace {

#if defined(__AVX512F__)

constexpr int64_t kLanes = 16;
struct F {
  __m512 v;
};
struct M {
  __mmask16 v;
};

inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
inline F load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline void store_n(float* p, F a, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
inline F keep_first(F a, int64_t n, F rest) { return {_mm512_mask_blend_ps(first_lanes(n), rest.v, a.v)}; }  // a[0..n), then rest
inline F set1(float f) { return {_mm512_set1_ps(f)}; }
inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }    // a * b + c
inline F fnma(F a, F b, F c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a * b
inline F min_second(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }         // b when either is NaN
inline F max_second(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F sqrt(F a) { return {_mm512_sqrt_ps(a.v)}; }
inline F floor(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
inline F ceil(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)}; }
inline F round(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F trunc(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)}; }
inline F bit_and(F a, F b) { return {_mm512_and_ps(a.v, b.v)}; }
inline F bit_or(F a, F b) { return {_mm512_or_ps(a.v, b.v)}; }
inline F bit_xor(F a, F b) { return {_mm512_xor_ps(a.v, b.v)}; }
inline M lt(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline M le(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline M eq(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline M ne(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ)}; }  // true for NaN
inline M is_nan(F a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline M operator&(M a, M b) { return {static_cast<__mmask16>(a.v & b.v)}; }
inline M operator|(M a, M b) { return {static_cast<__mmask16>(a.v | b.v)}; }
inline M operator^(M a, M b) { return {static_cast<__mmask16>(a.v ^ b.v)}; }
inline F select(M m, F a, F b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }  // a where m
inline bool any(M m) { return m.v != 0; }
// p * 2^n for integral n; saturates to infinity and to zero through the subnormals.
inline F scale2(F p, F n) { return {_mm512_scalef_ps(p.v, n.v)}; }
// x = m * 2^e with m in [0.5, 1), for finite positive x.
inline F mantissa(F x) { return {_mm512_getmant_ps(x.v, _MM_MANT_NORM_p5_1, _MM_MANT_SIGN_src)}; }
inline F exponent(F x) { return {_mm512_add_ps(_mm512_getexp_ps(x.v), _mm512_set1_ps(1))}; }
// -1 where the integral float n is odd in bit `bit`.
inline M int_bit(F n, int bit) { return {_mm512_test_epi32_mask(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(1 << bit))}; }
inline float sum(F a) { return _mm512_reduce_add_ps(a.v); }
inline float largest(F a) { return _mm512_reduce_max_ps(a.v); }
inline float smallest(F a) { return _mm512_reduce_min_ps(a.v); }

inline F load_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline void store_half(uint16_t* p, F a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F load_bfloat16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16))};
}
inline void store_bfloat16(uint16_t* p, F a) {
  const __m512i x = _mm512_castps_si512(a.v);
  const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(0x7fff)), lsb), 16);
  r = _mm512_mask_or_epi32(r, is_nan(a).v, _mm512_srli_epi32(x, 16), _mm512_set1_epi32(0x40));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(r));
}
inline F load_u8(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline F load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline void store_bool(uint8_t* p, F a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_maskz_set1_epi8(ne(a, set1(0)).v, 1)); }
inline F load_i32(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }
inline F load_i64(const int64_t* p) {
  const __m256 low = _mm512_cvtepi64_ps(_mm512_loadu_si512(p)), high = _mm512_cvtepi64_ps(_mm512_loadu_si512(p + 8));
  return {_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)};
}

#else  // AVX2

constexpr int64_t kLanes = 8;
struct F {
  __m256 v;
};
struct M {
  __m256 v;
};

inline F load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, F a) { _mm256_storeu_ps(p, a.v); }
inline __m256i first_lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline F load_n(const float* p, int64_t n) { return {_mm256_maskload_ps(p, first_lanes(n))}; }
inline void store_n(float* p, F a, int64_t n) { _mm256_maskstore_ps(p, first_lanes(n), a.v); }
inline F keep_first(F a, int64_t n, F rest) { return {_mm256_blendv_ps(rest.v, a.v, _mm256_castsi256_ps(first_lanes(n)))}; }
inline F set1(float f) { return {_mm256_set1_ps(f)}; }
inline F operator+(F a, F b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm256_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline F fnma(F a, F b, F c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
inline F min_second(F a, F b) { return {_mm256_min_ps(a.v, b.v)}; }
inline F max_second(F a, F b) { return {_mm256_max_ps(a.v, b.v)}; }
inline F sqrt(F a) { return {_mm256_sqrt_ps(a.v)}; }
inline F floor(F a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
inline F ceil(F a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)}; }
inline F round(F a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F trunc(F a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)}; }
inline F bit_and(F a, F b) { return {_mm256_and_ps(a.v, b.v)}; }
inline F bit_or(F a, F b) { return {_mm256_or_ps(a.v, b.v)}; }
inline F bit_xor(F a, F b) { return {_mm256_xor_ps(a.v, b.v)}; }
inline M lt(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline M le(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
inline M eq(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline M ne(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)}; }
inline M is_nan(F a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
inline M operator&(M a, M b) { return {_mm256_and_ps(a.v, b.v)}; }
inline M operator|(M a, M b) { return {_mm256_or_ps(a.v, b.v)}; }
inline M operator^(M a, M b) { return {_mm256_xor_ps(a.v, b.v)}; }
inline F select(M m, F a, F b) { return {_mm256_blendv_ps(b.v, a.v, m.v)}; }
inline bool any(M m) { return _mm256_movemask_ps(m.v) != 0; }
inline F power_of_two(__m256i n) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23))}; }
inline F scale2(F p, F n) {  // in two steps, so that 2^128 and 2^-149 are reached; |n| <= 250
  const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1);
  return p * power_of_two(half) * power_of_two(_mm256_sub_epi32(whole, half));
}
inline F denormal_scaled(F x, M small) { return select(small, x * F{_mm256_set1_ps(0x1p24f)}, x); }
inline F mantissa(F x) {
  const __m256i bits = _mm256_castps_si256(denormal_scaled(x, lt(x, set1(0x1p-126f))).v);
  return {_mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff)), _mm256_set1_epi32(0x3f000000)))};
}
inline F exponent(F x) {
  const M small = lt(x, set1(0x1p-126f));
  const __m256i bits = _mm256_castps_si256(denormal_scaled(x, small).v);
  const F e = {_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(126)))};
  return select(small, e - set1(24), e);
}
inline M int_bit(F n, int bit) {
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 31 - bit)))};
}
inline __m128 fold(F a) { return _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1)); }
inline float sum(F a) {
  __m128 s = fold(a);
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float largest(F a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
inline float smallest(F a) {
  __m128 s = _mm_min_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_min_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_min_ss(s, _mm_movehdup_ps(s)));
}

inline F load_half(const uint16_t* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
inline void store_half(uint16_t* p, F a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F load_bfloat16(const uint16_t* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16))};
}
inline __m128i narrow16(__m256i a) {  // lanes in 0..65535
  return _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}
inline void store_bfloat16(uint16_t* p, F a) {
  const __m256i x = _mm256_castps_si256(a.v), high = _mm256_srli_epi32(x, 16);
  const __m256i lsb = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i r = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(x, _mm256_set1_epi32(0x7fff)), lsb), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow16(_mm256_blendv_epi8(r, quiet, _mm256_castps_si256(is_nan(a).v))));
}
inline F load_u8(const uint8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
inline F load_i8(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
inline void store_bool(uint8_t* p, F a) {
  const __m256i ones = _mm256_and_si256(_mm256_castps_si256(ne(a, set1(0)).v), _mm256_set1_epi32(1));
  const __m128i words = narrow16(ones);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
inline F load_i32(const int32_t* p) { return {_mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline F load_i64(const int64_t* p) {
  return {_mm256_setr_ps(static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3]),
                         static_cast<float>(p[4]), static_cast<float>(p[5]), static_cast<float>(p[6]), static_cast<float>(p[7]))};
}

#endif

inline F zero() { return set1(0); }
inline F neg(F a) { return bit_xor(a, set1(-0.0f)); }
inline F abs(F a) { return bit_and(a, set1(__builtin_bit_cast(float, 0x7fffffff))); }
inline F with_sign_of(F magnitude, F sign) { return bit_or(magnitude, bit_and(sign, set1(-0.0f))); }
// NaN in either operand gives NaN.
inline F max(F a, F b) { return select(is_nan(a), a, max_second(a, b)); }
inline F min(F a, F b) { return select(is_nan(a), a, min_second(a, b)); }

}  // namespace
}  // namespace tokamak::cpu
