#include "backends/cpu/kernels/ref/scalar.h"

#include <cmath>
#include <limits>

namespace tokamak::cpu::ref {
namespace {

double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }
double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
double minimum(double a, double b) { return std::isnan(a) ? a : std::isnan(b) ? b : std::min(a, b); }
double maximum(double a, double b) { return std::isnan(a) ? a : std::isnan(b) ? b : std::max(a, b); }
double hard_sigmoid(double x, double alpha, double beta) { return maximum(0, minimum(1, alpha * x + beta)); }

}  // namespace

const std::vector<Scalar>& scalars() {
  constexpr double kSqrtHalf = 0.70710678118654752440, kSqrt2OverPi = 0.79788456080286535588;
  static const std::vector<Scalar> table = {
#define UNARY(name, expression)    \
  {name,                           \
   [](const double* v) -> double { \
     const double x = v[0];        \
     return expression;            \
   },                              \
   1}
#define UNARY_WITH(name, expression, ...) \
  {                                       \
    name,                                 \
        [](const double* v) -> double {   \
          const double x = v[0];          \
          return expression;              \
        },                                \
        1, {                              \
      __VA_ARGS__                         \
    }                                     \
  }
#define BINARY(name, expression)           \
  {                                        \
    name,                                  \
        [](const double* v) -> double {    \
          const double a = v[0], b = v[1]; \
          return expression;               \
        },                                 \
        2                                  \
  }
      UNARY("abs", std::fabs(x)),
      UNARY("neg", -x),
      UNARY("exp", std::exp(x)),
      UNARY("log", std::log(x)),
      UNARY("log1p", std::log1p(x)),
      UNARY("expm1", std::expm1(x)),
      UNARY("sqrt", std::sqrt(x)),
      UNARY("rsqrt", 1 / std::sqrt(x)),
      UNARY("reciprocal", 1 / x),
      UNARY("sin", std::sin(x)),
      UNARY("cos", std::cos(x)),
      UNARY("tan", std::tan(x)),
      UNARY("asin", std::asin(x)),
      UNARY("acos", std::acos(x)),
      UNARY("atan", std::atan(x)),
      UNARY("sinh", std::sinh(x)),
      UNARY("cosh", std::cosh(x)),
      UNARY("tanh", std::tanh(x)),
      UNARY("asinh", std::asinh(x)),
      UNARY("acosh", std::acosh(x)),
      UNARY("atanh", std::atanh(x)),
      UNARY("erf", std::erf(x)),
      UNARY("sigmoid", sigmoid(x)),
      UNARY("relu", maximum(x, 0)),
      UNARY("gelu", 0.5 * x * (1 + std::erf(x * kSqrtHalf))),
      UNARY("gelu_tanh", 0.5 * x * (1 + std::tanh(kSqrt2OverPi * (x + 0.044715 * x * x * x)))),
      UNARY("silu", x * sigmoid(x)),
      UNARY("softplus", softplus(x)),
      UNARY("softsign", x / (1 + std::fabs(x))),
      UNARY("sign", std::isnan(x) ? x : (x > 0) - (x < 0)),
      UNARY("ceil", std::ceil(x)),
      UNARY("floor", std::floor(x)),
      UNARY("round", std::nearbyint(x)),  // half to even: the rounding mode is never changed
      UNARY("not", x == 0),
      UNARY("isnan", std::isnan(x)),
      UNARY_WITH("isinf", std::isinf(x) && (x > 0 ? v[2] != 0 : v[1] != 0), {"detect_negative", 1}, {"detect_positive", 1}),
      UNARY("hard_swish", x * hard_sigmoid(x, 1.0 / 6, 0.5)),
      UNARY("mish", x * std::tanh(softplus(x))),
      UNARY_WITH("leaky_relu", x >= 0 ? x : v[1] * x, {"alpha", 0.01}),
      UNARY_WITH("elu", x >= 0 ? x : v[1] * std::expm1(x), {"alpha", 1.0}),
      UNARY_WITH("selu", x > 0 ? v[2] * x : v[2] * v[1] * std::expm1(x), {"alpha", 1.67326319217681884765625},
                 {"gamma", 1.05070102214813232421875}),
      UNARY_WITH("celu", x >= 0 ? x : v[1] * std::expm1(x / v[1]), {"alpha", 1.0}),
      UNARY_WITH("thresholded_relu", x > v[1] ? x : 0 * x, {"alpha", 1.0}),
      UNARY_WITH("hard_sigmoid", hard_sigmoid(x, v[1], v[2]), {"alpha", 0.2f}, {"beta", 0.5}),
      UNARY_WITH("shrink",
                 x < -v[2]  ? x + v[1]
                 : x > v[2] ? x - v[1]
                            : 0,
                 {"bias", 0.0}, {"lambd", 0.5}),
      BINARY("add", a + b),
      BINARY("sub", a - b),
      BINARY("mul", a * b),
      BINARY("div", a / b),
      BINARY("pow", std::pow(a, b)),
      BINARY("mod", std::fmod(a, b)),
      BINARY("min", minimum(a, b)),
      BINARY("max", maximum(a, b)),
      BINARY("equal", a == b),
      BINARY("less", a < b),
      BINARY("less_equal", a <= b),
      BINARY("greater", a > b),
      BINARY("greater_equal", a >= b),
      BINARY("and", a != 0 && b != 0),
      BINARY("or", a != 0 || b != 0),
      BINARY("xor", (a != 0) != (b != 0)),
      BINARY("prelu", a >= 0 ? a : a * b),
      {"where", [](const double* v) { return v[0] != 0 ? v[1] : v[2]; }, 3},
      {"clip", [](const double* v) { return std::isnan(v[0]) ? v[0] : std::min(std::max(v[0], v[1]), v[2]); }, 3},
#undef UNARY
#undef UNARY_WITH
#undef BINARY
  };
  return table;
}

const Scalar* find_scalar(std::string_view name) {
  for (const Scalar& scalar : scalars())
    if (scalar.name == name) return &scalar;
  return nullptr;
}

std::vector<double> scalar_parameters(const Scalar& scalar, const ir::Attrs& attrs) {
  std::vector<double> values;
  for (const ScalarParameter& parameter : scalar.parameters) values.push_back(attrs.get_float(parameter.name, parameter.value));
  return values;
}

}  // namespace tokamak::cpu::ref
