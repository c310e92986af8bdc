#pragma once
// Elementary functions on a vector, a few units in the last place each; included by instruction-set files only. Range reduction in the
// manner of Cody and Waite; the polynomials are our own weighted minimax fits (Lawson iteration), coefficients highest power first.

#include "backends/cpu/simd.h"

namespace tokamak::cpu {
namespace {

template <int N>
inline F horner(F x, const float (&c)[N]) {
  F p = set1(c[0]);
  for (int i = 1; i < N; ++i) p = fma(p, x, set1(c[i]));
  return p;
}

constexpr float kExpTail[] = {0.0013950599823147058f, 0.008368954062461853f, 0.04166620597243309f, 0.166665181517601f, 0.5f};
constexpr float kLn2High = 0.693115234375f, kLn2Low = 3.194618329871446e-05f, kLog2e = 1.44269504088896341f;

// e^x - 1 - ... is kept apart: returns r + r^2 q(r) = e^r - 1 and n with x = n ln2 + r.
inline F exp_reduced_minus_one(F x, F& n) {
  n = round(x * set1(kLog2e));
  const F r = fnma(n, set1(kLn2Low), fnma(n, set1(kLn2High), x));
  return fma(r * r, horner(r, kExpTail), r);
}

inline F exp(F x) {
  x = min_second(set1(89.0f), max_second(set1(-105.0f), x));  // NaN passes: the second operand wins
  F n;
  const F p = exp_reduced_minus_one(x, n) + set1(1);
  return scale2(p, n);
}

// For x <= 0 that is not NaN, where tiny results may become zero: no subnormals, cheaper on AVX2.
inline F exp_negative(F x) {
#if defined(__AVX512F__)
  return exp(x);
#else
  x = max_second(set1(-87.0f), x);
  F n;
  const F p = exp_reduced_minus_one(x, n) + set1(1);
  const F result = p * power_of_two(_mm256_cvtps_epi32(n.v));
  return select(le(x, set1(-87.0f)), zero(), result);
#endif
}

inline F expm1(F x) {
  x = min_second(set1(89.0f), max_second(set1(-30.0f), x));
  F n;
  const F p = exp_reduced_minus_one(x, n);
  return select(eq(n, zero()), p, scale2(p + set1(1), n) - set1(1));
}

constexpr float kLogTail[] = {0.06915149092674255f, -0.11789685487747192f, 0.1187300980091095f,
                              -0.123843714594841f,  0.14218656718730927f,  -0.16669249534606934f,
                              0.20002226531505585f, -0.24999986588954926f, 0.3333331048488617f};

inline F log(F x) {
  F m = mantissa(x), e = exponent(x);
  const M low = lt(m, set1(0.70710678f));
  m = select(low, m + m, m);
  e = select(low, e - set1(1), e);
  const F f = m - set1(1), f2 = f * f;
  const F tail = fma(f2 * f, horner(f, kLogTail), fma(e, set1(kLn2Low), f2 * set1(-0.5f)));
  F result = fma(e, set1(kLn2High), f + tail);
  const F inf = set1(__builtin_inff());
  result = select(eq(x, inf), inf, result);
  result = select(eq(x, zero()), neg(inf), result);
  return select(lt(x, zero()) | is_nan(x), set1(__builtin_nanf("")), result);
}

// log(1 + x) with the rounding of 1 + x made good (Kahan).
inline F log1p(F x) {
  const F u = set1(1) + x;
  const F result = log(u) * (x / (u - set1(1)));
  return select(eq(u, set1(1)) | eq(x, set1(__builtin_inff())), x, select(eq(u, zero()), neg(set1(__builtin_inff())), result));
}

inline F sigmoid(F x) { return set1(1) / (set1(1) + exp(neg(x))); }

constexpr float kTanhTail[] = {-0.005906336009502411f, 0.02080582082271576f, -0.05378682538866997f, 0.13331960141658783f,
                               -0.33333298563957214f};

inline F tanh(F x) {
  const F a = min_second(set1(10.0f), abs(x)), x2 = a * a;
  const F small = fma(a * x2, horner(x2, kTanhTail), a);
  const F large = set1(1) - set1(2) / (exp(a + a) + set1(1));
  return with_sign_of(select(lt(a, set1(0.6f)), small, large), x);
}

constexpr float kErfSmall[] = {7.889119297033176e-05f, -0.0008020841050893068f, 0.005189535208046436f, -0.026854444295167923f,
                               0.11283600330352783f,   -0.3761262595653534f,    1.1283791065216064f};
constexpr float kLogErfc[] = {2.513263268610899e-07f, -2.5314804588560946e-05f, 0.00046378799015656114f,
                              -0.004282382316887379f, 0.025373555719852448f,    -0.10863899439573288f,
                              -0.6330395936965942f,   -1.129661202430725f,      0.00020435986516531557f};

// An odd polynomial up to 1, then 1 - e^p(x) with p fitted to log erfc.
inline F erf(F x) {
  const F a = min_second(set1(4.0f), abs(x));
  const F small = a * horner(a * a, kErfSmall);
  F n;
  const F p = exp_reduced_minus_one(horner(a, kLogErfc), n) + set1(1);
  const F large = set1(1) - scale2(p, n);
  return with_sign_of(select(lt(a, set1(1)), small, large), x);
}

inline F gelu(F x) {
  const F half = x * set1(0.5f);
  return fma(half, erf(x * set1(0.70710678118654752f)), half);
}
// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
inline F gelu_tanh(F x) {
  const F u2 = x * fma(x * x, set1(-2 * 0.79788456f * 0.044715f), set1(-2 * 0.79788456f));
  return x / (set1(1) + exp(u2));
}
inline F silu(F x) { return x / (set1(1) + exp(neg(x))); }
inline F softplus(F x) { return max_second(zero(), x) + log1p(exp(neg(abs(x)))); }

// Calls the C library lane by lane: for functions that models rarely use, or arguments outside a fit's range.
template <class Function>
inline F by_lane(Function function, F x) {
  float lanes[kLanes];
  store(lanes, x);
  for (float& lane : lanes) lane = function(lane);
  return load(lanes);
}
template <class Function>
inline F by_lane(Function function, F x, F y) {
  float lanes[kLanes], second[kLanes];
  store(lanes, x);
  store(second, y);
  for (int i = 0; i < kLanes; ++i) lanes[i] = function(lanes[i], second[i]);
  return load(lanes);
}

constexpr float kSinTail[] = {-0.00019515685562510043f, 0.008332166820764542f, -0.16666655242443085f};
constexpr float kCosTail[] = {2.4436709281872027e-05f, -0.0013887352542951703f, 0.04166664555668831f};
constexpr float kTrigLimit = 4096;  // the three-part pi/2 below is exact enough up to here

// sin for shift 0, cos for shift 1: quadrant n + shift picks polynomial and sign.
template <int kShift>
inline F sin_or_cos(F x) {
  const F n = round(x * set1(0.63661977236758134f));
  const F r = fnma(n, set1(7.549790126404332e-08f), fnma(n, set1(0.0004837512969970703f), fnma(n, set1(1.5703125f), x)));
  const F r2 = r * r;
  const F s = fma(r * r2, horner(r2, kSinTail), r);
  const F c = fma(r2 * r2, horner(r2, kCosTail), fma(r2, set1(-0.5f), set1(1)));
  const F q = n + set1(kShift);
  const F result = select(int_bit(q, 0), c, s);
  return select(int_bit(q, 1), neg(result), result);
}
inline F sin(F x) { return any(lt(set1(kTrigLimit), abs(x))) ? by_lane(__builtin_sinf, x) : sin_or_cos<0>(x); }
inline F cos(F x) { return any(lt(set1(kTrigLimit), abs(x))) ? by_lane(__builtin_cosf, x) : sin_or_cos<1>(x); }

}  // namespace
}  // namespace tokamak::cpu
