// The functions of expressions (ir/expr.h) and pointwise ops, in float. Meaning: backends/cpu/kernels/ref/scalar.cc. Errors are a few units
// in the last place of the result or of 1, whichever is larger: the fast exponential and division are used where that holds.
#pragma once
#include "prelude.cuh"

namespace fn {

constexpr float kInfinity = __builtin_bit_cast(float, 0x7f800000);

// NaN if either is.
DEVICE float min(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
DEVICE float max(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

DEVICE float abs(float x) { return ::fabsf(x); }
DEVICE float neg(float x) { return -x; }
DEVICE float exp(float x) { return ::expf(x); }
DEVICE float log(float x) { return ::logf(x); }
DEVICE float log1p(float x) { return ::log1pf(x); }
DEVICE float expm1(float x) { return ::expm1f(x); }
DEVICE float sqrt(float x) { return ::sqrtf(x); }
DEVICE float rsqrt(float x) { return ::rsqrtf(x); }
DEVICE float reciprocal(float x) { return 1.f / x; }
DEVICE float sin(float x) { return ::sinf(x); }
DEVICE float cos(float x) { return ::cosf(x); }
DEVICE float tan(float x) { return ::tanf(x); }
DEVICE float asin(float x) { return ::asinf(x); }
DEVICE float acos(float x) { return ::acosf(x); }
DEVICE float atan(float x) { return ::atanf(x); }
DEVICE float sinh(float x) { return ::sinhf(x); }
DEVICE float cosh(float x) { return ::coshf(x); }
DEVICE float tanh(float x) { return ::tanhf(x); }
DEVICE float asinh(float x) { return ::asinhf(x); }
DEVICE float acosh(float x) { return ::acoshf(x); }
DEVICE float atanh(float x) { return ::atanhf(x); }
DEVICE float erf(float x) { return ::erff(x); }
DEVICE float sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }
DEVICE float relu(float x) { return max(x, 0.f); }
DEVICE float gelu(float x) { return 0.5f * x * (1.f + ::erff(x * 0.70710678118654752f)); }
// 0.5 * (1 + tanh(u)) is sigmoid(2 u).
DEVICE float gelu_tanh(float x) {
  const float u = 0.79788456080286536f * (x + 0.044715f * x * x * x);
  return __fdividef(x, 1.f + __expf(-2.f * u));
}
DEVICE float silu(float x) { return __fdividef(x, 1.f + __expf(-x)); }
DEVICE float softplus(float x) { return x > 0.f ? x + ::log1pf(::expf(-x)) : ::log1pf(::expf(x)); }
DEVICE float softsign(float x) { return x / (1.f + ::fabsf(x)); }
DEVICE float sign(float x) { return x != x ? x : x > 0.f ? 1.f : x < 0.f ? -1.f : 0.f; }
DEVICE float ceil(float x) { return ::ceilf(x); }
DEVICE float floor(float x) { return ::floorf(x); }
DEVICE float round(float x) { return ::rintf(x); }
DEVICE float not_(float x) { return x == 0.f ? 1.f : 0.f; }
DEVICE float isnan(float x) { return x != x ? 1.f : 0.f; }
DEVICE float isinf(float x) { return ::fabsf(x) == kInfinity ? 1.f : 0.f; }
DEVICE float hard_sigmoid(float x, float alpha, float beta) { return max(0.f, min(1.f, alpha * x + beta)); }
DEVICE float hard_swish(float x) { return x * hard_sigmoid(x, 1.f / 6.f, 0.5f); }
// tanh(softplus(x)) is n / (n + 2) with n = e^x (e^x + 2).
DEVICE float mish(float x) {
  if (x > 20.f) return x;
  const float e = ::expf(x), n = e * (e + 2.f);
  return x * (n / (n + 2.f));
}
DEVICE float leaky_relu(float x, float alpha) { return x >= 0.f ? x : alpha * x; }
DEVICE float elu(float x, float alpha) { return x >= 0.f ? x : alpha * ::expm1f(x); }
DEVICE float selu(float x, float alpha, float gamma) { return x > 0.f ? gamma * x : gamma * alpha * ::expm1f(x); }
DEVICE float celu(float x, float alpha) { return x >= 0.f ? x : alpha * ::expm1f(x / alpha); }
DEVICE float thresholded_relu(float x, float alpha) { return x > alpha ? x : 0.f * x; }
DEVICE float shrink(float x, float bias, float lambd) { return x < -lambd ? x + bias : x > lambd ? x - bias : 0.f; }

DEVICE float add(float a, float b) { return a + b; }
DEVICE float sub(float a, float b) { return a - b; }
DEVICE float mul(float a, float b) { return a * b; }
DEVICE float div(float a, float b) { return a / b; }
DEVICE float pow(float a, float b) { return ::powf(a, b); }
DEVICE float mod(float a, float b) { return ::fmodf(a, b); }  // C's: the sign of a
DEVICE float equal(float a, float b) { return a == b ? 1.f : 0.f; }
DEVICE float less(float a, float b) { return a < b ? 1.f : 0.f; }
DEVICE float less_equal(float a, float b) { return a <= b ? 1.f : 0.f; }
DEVICE float greater(float a, float b) { return a > b ? 1.f : 0.f; }
DEVICE float greater_equal(float a, float b) { return a >= b ? 1.f : 0.f; }
DEVICE float and_(float a, float b) { return a != 0.f && b != 0.f ? 1.f : 0.f; }
DEVICE float or_(float a, float b) { return a != 0.f || b != 0.f ? 1.f : 0.f; }
DEVICE float xor_(float a, float b) { return (a != 0.f) != (b != 0.f) ? 1.f : 0.f; }
DEVICE float prelu(float a, float b) { return a >= 0.f ? a : a * b; }
DEVICE float where(float c, float a, float b) { return c != 0.f ? a : b; }
DEVICE float clip(float x, float low, float high) {  // NaN stays
  const float v = x < low ? low : x;
  return high < v ? high : v;
}

}  // namespace fn
