// Elementwise operators of one input.

#include <algorithm>

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void infer_float(InferContext& ctx) {
  require_float(ctx, 0);
  same_type(ctx);
}

void infer_number(InferContext& ctx) {
  const DType t = ctx.dtype(0);
  if (!is_float(t) && !is_integer(t)) ctx.fail("expected a number type, found {}", to_string(t));
  same_type(ctx);
  if (!is_integer(t)) return;
  const std::string_view op = ctx.node().op().name;
  combine_ints(ctx, [&](std::span<const Dim> x) -> std::optional<Dim> {
    if (op == "neg") return Dim(0) - x[0];
    const bool positive = Dim::known_ge(x[0], 0), negative = Dim::known_ge(0, x[0]);
    if (op == "abs" && (positive || negative)) return positive ? x[0] : Dim(0) - x[0];
    if (op == "relu") return Dim::max(x[0], 0);
    if (op == "sign" && x[0].is_const()) return (x[0].value() > 0) - (x[0].value() < 0);
    if (op == "sign" && Dim::known_ge(x[0], 1)) return 1;
    return std::nullopt;
  });
}

void infer_test(InferContext& ctx) {
  require_float(ctx, 0);
  TensorType t = ctx.type(0);
  t.dtype = DType::Bool;
  ctx.set_type(0, std::move(t));
}

void infer_not(InferContext& ctx) {
  if (ctx.dtype(0) != DType::Bool) ctx.fail("expected bool, found {}", to_string(ctx.dtype(0)));
  same_type(ctx);
  combine_ints(ctx, [](std::span<const Dim> x) -> std::optional<Dim> {
    if (!x[0].is_const()) return std::nullopt;
    return x[0].value() == 0;
  });
}

void infer_bitwise_not(InferContext& ctx) {
  require_integer(ctx, 0);
  same_type(ctx);
}

void infer_bitcast(InferContext& ctx) {
  const DType to = ctx.attrs().get_dtype("to"), from = ctx.dtype(0);
  if (from == DType::String || to == DType::String || bits_of(from) != bits_of(to))
    ctx.fail("{} and {} differ in size", to_string(from), to_string(to));
  TensorType t = ctx.type(0);
  t.dtype = to;
  ctx.set_type(0, std::move(t));
}

void infer_cast(InferContext& ctx) {
  const DType to = ctx.attrs().get_dtype("to"), from = ctx.dtype(0);
  TensorType t = ctx.type(0);
  t.dtype = to;
  ctx.set_type(0, std::move(t));
  if (!is_integer(from) && from != DType::Bool) return;
  combine_ints(ctx, [&](std::span<const Dim> x) -> std::optional<Dim> {
    if (to == DType::Bool) {
      if (x[0].is_const()) return x[0].value() != 0;
      return Dim::known_ge(x[0], 1) ? std::optional<Dim>(1) : std::nullopt;
    }
    if (to == DType::I64 || from == to) return x[0];
    if (to != DType::I32) {  // narrow types and u64: only numbers that surely fit
      const int limit = std::min(bits_of(to), 63) - (is_signed_integer(to) ? 1 : 0);
      if (!x[0].is_const() || x[0].value() < 0 || (x[0].value() >> limit) != 0) return std::nullopt;
      return x[0];
    }
    if (x[0].is_const() && x[0].value() != static_cast<int32_t>(x[0].value())) return std::nullopt;
    return x[0];  // a size that passes 2^31 would wrap in the model too; no real tensor has one
  });
}

OpDef unary_op(std::string_view name, std::string_view doc, void (*infer)(InferContext&), std::vector<AttrSpec> attrs = {}) {
  return {.name = name, .doc = doc, .traits = kUnary, .attrs = std::move(attrs), .infer = infer};
}

}  // namespace

std::span<const OpDef> unary() {
  constexpr AttrKind F = AttrKind::Float, I = AttrKind::Int;
  static const std::vector<OpDef> table = {
      unary_op("abs", "(x): |x|", infer_number),
      unary_op("neg", "(x): -x", infer_number),
      unary_op("sign", "(x): -1, 0 or 1", infer_number),
      unary_op("relu", "(x): max(x, 0)", infer_number),
      unary_op("exp", "(x): e^x", infer_float),
      unary_op("log", "(x): natural logarithm", infer_float),
      unary_op("log1p", "(x): log(1 + x)", infer_float),
      unary_op("expm1", "(x): e^x - 1", infer_float),
      unary_op("sqrt", "(x): square root", infer_float),
      unary_op("rsqrt", "(x): 1 / sqrt(x)", infer_float),
      unary_op("reciprocal", "(x): 1 / x", infer_float),
      unary_op("sin", "(x): sine", infer_float),
      unary_op("cos", "(x): cosine", infer_float),
      unary_op("tan", "(x): tangent", infer_float),
      unary_op("asin", "(x): inverse sine", infer_float),
      unary_op("acos", "(x): inverse cosine", infer_float),
      unary_op("atan", "(x): inverse tangent", infer_float),
      unary_op("sinh", "(x): hyperbolic sine", infer_float),
      unary_op("cosh", "(x): hyperbolic cosine", infer_float),
      unary_op("tanh", "(x): hyperbolic tangent", infer_float),
      unary_op("asinh", "(x): inverse hyperbolic sine", infer_float),
      unary_op("acosh", "(x): inverse hyperbolic cosine", infer_float),
      unary_op("atanh", "(x): inverse hyperbolic tangent", infer_float),
      unary_op("erf", "(x): error function", infer_float),
      unary_op("sigmoid", "(x): 1 / (1 + e^-x)", infer_float),
      unary_op("gelu", "(x): x * Phi(x), with the error function", infer_float),
      unary_op("gelu_tanh", "(x): gelu by its tanh approximation", infer_float),
      unary_op("silu", "(x): x * sigmoid(x)", infer_float),
      unary_op("softplus", "(x): log(1 + e^x)", infer_float),
      unary_op("softsign", "(x): x / (1 + |x|)", infer_float),
      unary_op("ceil", "(x): round up", infer_float),
      unary_op("floor", "(x): round down", infer_float),
      unary_op("round", "(x): round to nearest, halves to even", infer_float),
      unary_op("hard_swish", "(x): x * clip(x / 6 + 0.5, 0, 1)", infer_float),
      unary_op("mish", "(x): x * tanh(softplus(x))", infer_float),
      unary_op("not", "(x): logical negation of bool", infer_not),
      unary_op("bitwise_not", "(x): complement of an integer", infer_bitwise_not),
      unary_op("isnan", "(x): bool, true where x is not a number", infer_test),
      unary_op("isinf", "(x){detect_negative=1, detect_positive=1}: bool, true at infinities", infer_test,
               {{"detect_negative", I}, {"detect_positive", I}}),
      unary_op("leaky_relu", "(x){alpha}: x < 0 ? alpha * x : x", infer_float, {{"alpha", F}}),
      unary_op("elu", "(x){alpha}: x < 0 ? alpha * (e^x - 1) : x", infer_float, {{"alpha", F}}),
      unary_op("selu", "(x){alpha, gamma}: gamma * (x <= 0 ? alpha * (e^x - 1) : x)", infer_float, {{"alpha", F}, {"gamma", F}}),
      unary_op("celu", "(x){alpha}: max(x, 0) + min(alpha * (e^(x / alpha) - 1), 0)", infer_float, {{"alpha", F}}),
      unary_op("thresholded_relu", "(x){alpha}: x > alpha ? x : 0", infer_float, {{"alpha", F}}),
      unary_op("hard_sigmoid", "(x){alpha, beta}: clip(alpha * x + beta, 0, 1)", infer_float, {{"alpha", F}, {"beta", F}}),
      unary_op("shrink", "(x){bias, lambd}: x < -lambd ? x + bias : x > lambd ? x - bias : 0", infer_number, {{"bias", F}, {"lambd", F}}),
      unary_op("cast", "(x){to, saturate=1, round_mode=\"up\"}: x in another dtype; saturate for 8-bit floats, round_mode for f8e8m0",
               infer_cast, {{"to", AttrKind::DType, true}, {"saturate", I}, {"round_mode", AttrKind::String}}),
      {.name = "bitcast",
       .doc = "(x){to}: the same bits as another dtype of that size",
       .attrs = {{"to", AttrKind::DType, true}},
       .infer = infer_bitcast},
  };
  return table;
}

}  // namespace tokamak::ir::ops
