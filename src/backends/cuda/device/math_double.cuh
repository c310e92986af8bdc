// math.cuh's functions in double, for f64 tensors.
#pragma once
#include "math.cuh"

namespace fn {

DEVICE double min(double a, double b) { return a != a ? a : b != b ? b : b < a ? b : a; }
DEVICE double max(double a, double b) { return a != a ? a : b != b ? b : a < b ? b : a; }
DEVICE double abs(double x) { return ::fabs(x); }
DEVICE double neg(double x) { return -x; }
DEVICE double exp(double x) { return ::exp(x); }
DEVICE double log(double x) { return ::log(x); }
DEVICE double log1p(double x) { return ::log1p(x); }
DEVICE double expm1(double x) { return ::expm1(x); }
DEVICE double sqrt(double x) { return ::sqrt(x); }
DEVICE double rsqrt(double x) { return 1. / ::sqrt(x); }
DEVICE double reciprocal(double x) { return 1. / x; }
DEVICE double sin(double x) { return ::sin(x); }
DEVICE double cos(double x) { return ::cos(x); }
DEVICE double tan(double x) { return ::tan(x); }
DEVICE double asin(double x) { return ::asin(x); }
DEVICE double acos(double x) { return ::acos(x); }
DEVICE double atan(double x) { return ::atan(x); }
DEVICE double sinh(double x) { return ::sinh(x); }
DEVICE double cosh(double x) { return ::cosh(x); }
DEVICE double tanh(double x) { return ::tanh(x); }
DEVICE double asinh(double x) { return ::asinh(x); }
DEVICE double acosh(double x) { return ::acosh(x); }
DEVICE double atanh(double x) { return ::atanh(x); }
DEVICE double erf(double x) { return ::erf(x); }
DEVICE double sigmoid(double x) { return 1. / (1. + ::exp(-x)); }
DEVICE double relu(double x) { return max(x, 0.); }
DEVICE double gelu(double x) { return 0.5 * x * (1. + ::erf(x * 0.70710678118654752440)); }
DEVICE double gelu_tanh(double x) { return 0.5 * x * (1. + ::tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x))); }
DEVICE double silu(double x) { return x * sigmoid(x); }
DEVICE double softplus(double x) { return x > 0. ? x + ::log1p(::exp(-x)) : ::log1p(::exp(x)); }
DEVICE double softsign(double x) { return x / (1. + ::fabs(x)); }
DEVICE double sign(double x) { return x != x ? x : x > 0. ? 1. : x < 0. ? -1. : 0.; }
DEVICE double ceil(double x) { return ::ceil(x); }
DEVICE double floor(double x) { return ::floor(x); }
DEVICE double round(double x) { return ::rint(x); }
DEVICE double hard_sigmoid(double x, double alpha, double beta) { return max(0., min(1., alpha * x + beta)); }
DEVICE double hard_swish(double x) { return x * hard_sigmoid(x, 1. / 6., 0.5); }
DEVICE double mish(double x) { return x * ::tanh(softplus(x)); }
DEVICE double leaky_relu(double x, double alpha) { return x >= 0. ? x : alpha * x; }
DEVICE double elu(double x, double alpha) { return x >= 0. ? x : alpha * ::expm1(x); }
DEVICE double selu(double x, double alpha, double gamma) { return x > 0. ? gamma * x : gamma * alpha * ::expm1(x); }
DEVICE double celu(double x, double alpha) { return x >= 0. ? x : alpha * ::expm1(x / alpha); }
DEVICE double thresholded_relu(double x, double alpha) { return x > alpha ? x : 0. * x; }
DEVICE double shrink(double x, double bias, double lambd) { return x < -lambd ? x + bias : x > lambd ? x - bias : 0.; }
DEVICE double add(double a, double b) { return a + b; }
DEVICE double sub(double a, double b) { return a - b; }
DEVICE double mul(double a, double b) { return a * b; }
DEVICE double div(double a, double b) { return a / b; }
DEVICE double pow(double a, double b) { return ::pow(a, b); }
DEVICE double mod(double a, double b) { return ::fmod(a, b); }
DEVICE double prelu(double a, double b) { return a >= 0. ? a : a * b; }

}  // namespace fn
