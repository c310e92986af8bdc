// Reductions and prefix sums.

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

// Contents of a whole 1-D shape reduced: Size-like products in exported shape arithmetic.
void fold(InferContext& ctx) {
  const auto values = ctx.ints(0);
  if (!values || values->empty() || !is_integer(ctx.dtype(0))) return;
  const std::string_view op = ctx.node().op().name;
  try_set_ints(ctx, 0, [&]() -> std::optional<Dims> {
    Dim result = (*values)[0];
    for (size_t i = 1; i < values->size(); ++i) {
      const Dim& v = (*values)[i];
      if (op == "reduce_sum") result = result + v;
      else if (op == "reduce_prod") result = result * v;
      else if (op == "reduce_max") result = Dim::max(result, v);
      else if (op == "reduce_min") result = Dim::min(result, v);
      else return std::nullopt;
    }
    return Dims{result};
  });
}

void infer_reduce(InferContext& ctx) {
  const DType dtype = ctx.dtype(0);
  const bool keep = ctx.attrs().get_bool("keepdims", true);
  std::optional<Ints> axes;
  if (ctx.attrs().has("axes")) axes = ctx.attrs().get_ints("axes");
  else if (ctx.has_input(1)) axes = ctx.const_ints(1);
  const bool all = ctx.attrs().has("axes") ? false : !ctx.has_input(1) || (axes && axes->empty());
  if (!ctx.ranked(0)) {
    if (all && !keep) return ctx.set_type(0, dtype, {});
    return ctx.set_unranked(0, dtype);
  }
  const int64_t rank = ctx.rank(0);
  if (all) {
    ctx.set_type(0, dtype, keep ? Dims(static_cast<size_t>(rank), Dim(1)) : Dims());
    if (rank <= 1) fold(ctx);
    return;
  }
  if (!axes) return keep ? ctx.set_type(0, dtype, fresh_dims(ctx, rank)) : ctx.set_unranked(0, dtype);
  std::vector<bool> reduced(static_cast<size_t>(rank));
  for (int64_t a : *axes) reduced[ctx.axis(a, rank)] = true;
  Dims dims;
  for (int64_t i = 0; i < rank; ++i) {
    if (!reduced[i]) dims.push_back(ctx.dim(0, i));
    else if (keep) dims.push_back(1);
  }
  ctx.set_type(0, dtype, std::move(dims));
  if (rank == 1 && reduced[0]) fold(ctx);
}

void infer_arg(InferContext& ctx) {
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  if (!ctx.ranked(0)) return ctx.set_unranked(0, DType::I64);
  Dims dims = ctx.type(0).dims;
  const int64_t axis = ctx.axis(ctx.attrs().get_int("axis", 0), ctx.rank(0));
  if (dims[axis].is(0)) ctx.fail("axis {} of {} is empty", axis, to_string(ctx.type(0)));
  if (ctx.attrs().get_bool("keepdims", true)) dims[axis] = 1;
  else dims.erase(dims.begin() + axis);
  ctx.set_type(0, DType::I64, std::move(dims));
}

void infer_cumsum(InferContext& ctx) {
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  const auto axis = scalar_int(ctx, 1);
  if (axis && axis->is_const() && ctx.ranked(0)) ctx.axis(axis->value(), ctx.rank(0));
  same_type(ctx);
}

OpDef reduce_op(std::string_view name, std::string_view doc) {
  return {
      .name = name, .doc = doc, .max_inputs = 2, .attrs = {{"axes", AttrKind::Ints}, {"keepdims", AttrKind::Int}}, .infer = infer_reduce};
}

OpDef arg_op(std::string_view name, std::string_view doc) {
  constexpr AttrKind I = AttrKind::Int;
  return {.name = name, .doc = doc, .attrs = {{"axis", I}, {"keepdims", I}, {"select_last", I}}, .infer = infer_arg};
}

}  // namespace

std::span<const OpDef> reduce() {
  static const std::vector<OpDef> table = {
      reduce_op("reduce_sum", "(x, axes?){axes, keepdims=1}: sum over the axes; over all without axes"),
      reduce_op("reduce_mean", "(x, axes?){axes, keepdims=1}: mean over the axes; over all without axes"),
      reduce_op("reduce_max", "(x, axes?){axes, keepdims=1}: largest over the axes; over all without axes"),
      reduce_op("reduce_min", "(x, axes?){axes, keepdims=1}: smallest over the axes; over all without axes"),
      reduce_op("reduce_prod", "(x, axes?){axes, keepdims=1}: product over the axes; over all without axes"),
      arg_op("argmax", "(x){axis=0, keepdims=1, select_last=0}: i64 index of the largest"),
      arg_op("argmin", "(x){axis=0, keepdims=1, select_last=0}: i64 index of the smallest"),
      {.name = "cumsum",
       .doc = "(x, axis){exclusive=0, reverse=0}: running sums along an axis",
       .min_inputs = 2,
       .max_inputs = 2,
       .attrs = {{"exclusive", AttrKind::Int}, {"reverse", AttrKind::Int}},
       .infer = infer_cumsum},
      {.name = "cumprod",
       .doc = "(x, axis){exclusive=0, reverse=0}: running products along an axis",
       .min_inputs = 2,
       .max_inputs = 2,
       .attrs = {{"exclusive", AttrKind::Int}, {"reverse", AttrKind::Int}},
       .infer = infer_cumsum},
  };
  return table;
}

}  // namespace tokamak::ir::ops
