// Elementwise operators of two inputs, with NumPy broadcasting.

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void set_broadcast(InferContext& ctx, DType dtype) {
  if (ctx.ranked(0) && ctx.ranked(1)) ctx.set_type(0, dtype, ctx.broadcast(ctx.type(0).dims, ctx.type(1).dims));
  else ctx.set_unranked(0, dtype);
}

// Integer meaning of an operator on two contents, when it can be decided. C++ semantics for numbers, as the kernels have.
std::optional<Dim> apply(std::string_view op, const Dim& a, const Dim& b, bool fmod) {
  const bool numbers = a.is_const() && b.is_const();
  const int64_t x = numbers ? a.value() : 0, y = numbers ? b.value() : 0;
  const bool nonnegative = Dim::known_ge(a, 0) && Dim::known_ge(b, 0);
  if (op == "add") return a + b;
  if (op == "sub") return a - b;
  if (op == "mul") return a * b;
  if (op == "min") return Dim::min(a, b);
  if (op == "max") return Dim::max(a, b);
  if (op == "div") {
    if (b.is(0)) return std::nullopt;
    if (numbers && y != -1) return x / y;
    return nonnegative ? std::optional(Dim::floordiv(a, b)) : std::nullopt;
  }
  if (op == "mod") {
    if (b.is(0)) return std::nullopt;
    if (fmod && numbers && y != -1) return x % y;
    if (fmod && !nonnegative) return std::nullopt;
    return Dim::mod(a, b);
  }
  if (op == "pow") {
    if (!b.is_const() || b.value() < 0 || b.value() > 8) return std::nullopt;
    Dim power = 1;
    for (int64_t i = 0; i < b.value(); ++i) power = power * a;
    return power;
  }
  const auto less = [](const Dim& p, const Dim& q) -> std::optional<Dim> {
    if (Dim::known_ge(q, p + Dim(1))) return 1;
    if (Dim::known_ge(p, q)) return 0;
    return std::nullopt;
  };
  const auto negated = [](std::optional<Dim> d) { return d ? std::optional<Dim>(d->is(0)) : d; };
  if (op == "less") return less(a, b);
  if (op == "greater") return less(b, a);
  if (op == "less_equal") return negated(less(b, a));
  if (op == "greater_equal") return negated(less(a, b));
  if (op == "equal") {
    if (a == b) return 1;
    if (numbers || Dim::known_ge(a, b + Dim(1)) || Dim::known_ge(b, a + Dim(1))) return 0;
    return std::nullopt;
  }
  if (op == "and" && (a.is(0) || b.is(0))) return 0;
  if (op == "or" && (a.is(1) || b.is(1))) return 1;
  if (!numbers) return std::nullopt;
  if (op == "and" || op == "bitwise_and") return x & y;
  if (op == "or" || op == "bitwise_or") return x | y;
  if (op == "xor" || op == "bitwise_xor") return x ^ y;
  return std::nullopt;
}

void fold(InferContext& ctx) {
  const DType t = ctx.dtype(0);
  if (!is_integer(t) && t != DType::Bool) return;
  const std::string_view op = ctx.node().op().name;
  const bool fmod = op == "mod" && ctx.attrs().get_bool("fmod", false);
  combine_ints(ctx, [&](std::span<const Dim> x) { return apply(op, x[0], x[1], fmod); });
}

void infer_arithmetic(InferContext& ctx) {
  require_same_dtype(ctx, 0, 1);
  const DType t = ctx.dtype(0);
  if (t == DType::Bool || t == DType::String) ctx.fail("expected a number type, found {}", to_string(t));
  set_broadcast(ctx, t);
  fold(ctx);
}

void infer_pow(InferContext& ctx) {  // the exponent may have another number type
  set_broadcast(ctx, ctx.dtype(0));
  if (is_integer(ctx.dtype(1))) fold(ctx);
}

void infer_compare(InferContext& ctx) {
  require_same_dtype(ctx, 0, 1);
  set_broadcast(ctx, DType::Bool);
  fold(ctx);
}

void infer_logical(InferContext& ctx) {
  for (int i = 0; i < 2; ++i)
    if (ctx.dtype(i) != DType::Bool) ctx.fail("input {}: expected bool, found {}", i, to_string(ctx.dtype(i)));
  set_broadcast(ctx, DType::Bool);
  fold(ctx);
}

void infer_bitwise(InferContext& ctx) {
  require_same_dtype(ctx, 0, 1);
  require_integer(ctx, 0);
  set_broadcast(ctx, ctx.dtype(0));
  fold(ctx);
}

void infer_prelu(InferContext& ctx) {
  require_same_dtype(ctx, 0, 1);
  set_broadcast(ctx, ctx.dtype(0));
}

OpDef binary_op(std::string_view name, std::string_view doc, void (*infer)(InferContext&), uint32_t more_traits = 0,
                std::vector<AttrSpec> attrs = {}) {
  return {.name = name,
          .doc = doc,
          .min_inputs = 2,
          .max_inputs = 2,
          .traits = kBinary | more_traits,
          .attrs = std::move(attrs),
          .infer = infer};
}

}  // namespace

std::span<const OpDef> binary() {
  static const std::vector<OpDef> table = {
      binary_op("add", "(a, b): a + b", infer_arithmetic, kCommutative),
      binary_op("sub", "(a, b): a - b", infer_arithmetic),
      binary_op("mul", "(a, b): a * b", infer_arithmetic, kCommutative),
      binary_op("div", "(a, b): a / b; integers round toward zero", infer_arithmetic),
      binary_op("pow", "(a, b): a to the power b, in a's dtype", infer_pow),
      binary_op("mod", "(a, b){fmod=0}: remainder with the sign of b, or of a when fmod", infer_arithmetic, 0, {{"fmod", AttrKind::Int}}),
      binary_op("min", "(a, b): the smaller; NaN if either is", infer_arithmetic, kCommutative),
      binary_op("max", "(a, b): the larger; NaN if either is", infer_arithmetic, kCommutative),
      binary_op("equal", "(a, b): bool a == b", infer_compare, kCommutative),
      binary_op("less", "(a, b): bool a < b", infer_compare),
      binary_op("less_equal", "(a, b): bool a <= b", infer_compare),
      binary_op("greater", "(a, b): bool a > b", infer_compare),
      binary_op("greater_equal", "(a, b): bool a >= b", infer_compare),
      binary_op("and", "(a, b): logical and of bools", infer_logical, kCommutative),
      binary_op("or", "(a, b): logical or of bools", infer_logical, kCommutative),
      binary_op("xor", "(a, b): logical exclusive or of bools", infer_logical, kCommutative),
      binary_op("bitwise_and", "(a, b): bits of both", infer_bitwise, kCommutative),
      binary_op("bitwise_or", "(a, b): bits of either", infer_bitwise, kCommutative),
      binary_op("bitwise_xor", "(a, b): bits of exactly one", infer_bitwise, kCommutative),
      binary_op("shift_left", "(a, b): a << b", infer_bitwise),
      binary_op("shift_right", "(a, b): a >> b", infer_bitwise),
      binary_op("prelu", "(x, slope): x < 0 ? slope * x : x", infer_prelu),
  };
  return table;
}

}  // namespace tokamak::ir::ops
