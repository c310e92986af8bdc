// Elementwise operators of more inputs: where, clip, and the fused region.

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void infer_where(InferContext& ctx) {
  if (ctx.dtype(0) != DType::Bool) ctx.fail("the condition must be bool, found {}", to_string(ctx.dtype(0)));
  require_same_dtype(ctx, 1, 2);
  if (!ctx.ranked(0) || !ctx.ranked(1) || !ctx.ranked(2)) return ctx.set_unranked(0, ctx.dtype(1));
  ctx.set_type(0, ctx.dtype(1), ctx.broadcast(ctx.broadcast(ctx.type(0).dims, ctx.type(1).dims), ctx.type(2).dims));
  combine_ints(ctx, [](std::span<const Dim> x) -> std::optional<Dim> {
    if (x[0].is_const()) return x[0].value() != 0 ? x[1] : x[2];
    return x[1] == x[2] ? std::optional(x[1]) : std::nullopt;
  });
}

void infer_clip(InferContext& ctx) {
  for (int i = 1; i <= 2; ++i) {
    require_same_dtype(ctx, 0, i);
    if (ctx.has_input(i) && ctx.ranked(i) && ctx.rank(i) > 0 && !(ctx.rank(i) == 1 && ctx.dim(i, 0).is(1)))
      ctx.fail("limit {} must be a scalar, found {}", i, to_string(ctx.type(i)));
  }
  same_type(ctx);
  const auto x = ctx.ints(0);
  if (!x) return;
  try_set_ints(ctx, 0, [&]() -> std::optional<Dims> {
    if (ctx.attrs().has("min") || ctx.attrs().has("max")) return std::nullopt;
    Dims values = *x;
    for (int i = 1; i <= 2; ++i) {
      if (!ctx.has_input(i)) continue;
      const auto limit = scalar_int(ctx, i);
      if (!limit) return std::nullopt;
      for (Dim& d : values) d = i == 1 ? Dim::max(d, *limit) : Dim::min(d, *limit);
    }
    return values;
  });
}

void infer_fused(InferContext& ctx) {
  const Strings dtypes = ctx.attrs().get_strings("dtypes", {});
  const Ints reduced = ctx.attrs().get_ints("reduced", {});
  const size_t outputs = static_cast<size_t>(ctx.num_outputs());
  if (!dtypes.empty() && dtypes.size() != outputs) ctx.fail("`dtypes` has {} entries for {} outputs", dtypes.size(), outputs);
  if (!reduced.empty() && reduced.size() != outputs) ctx.fail("`reduced` has {} entries for {} outputs", reduced.size(), outputs);
  bool ranked = true;
  Dims dims;
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    if (!ctx.has_input(i)) ctx.fail("input {} is absent", i);
    ranked = ranked && ctx.ranked(i);
    if (ranked) dims = ctx.broadcast(dims, ctx.type(i).dims);
  }
  for (size_t i = 0; i < outputs; ++i) {
    DType dtype = DType::F32;
    if (!dtypes.empty()) {
      const auto parsed = parse_dtype(dtypes[i]);
      if (!parsed) ctx.fail("`dtypes`: unknown type \"{}\"", dtypes[i]);
      dtype = *parsed;
    }
    if (!ranked) {
      ctx.set_unranked(static_cast<int>(i), dtype);
      continue;
    }
    Dims own = dims;
    if (!reduced.empty() && reduced[i]) {
      if (own.empty()) ctx.fail("output {} is reduced, but the inputs are scalars", i);
      own.back() = 1;
    }
    ctx.set_type(static_cast<int>(i), dtype, std::move(own));
  }
}

}  // namespace

std::span<const OpDef> pointwise() {
  static const std::vector<OpDef> table = {
      {.name = "where",
       .doc = "(c, a, b): a where c is true, else b",
       .min_inputs = 3,
       .max_inputs = 3,
       .traits = kPointwise,
       .infer = infer_where},
      {.name = "clip",
       .doc = "(x, lo?, hi?){min, max}: x limited to [lo, hi]; limits are scalar inputs, or floats in attributes",
       .max_inputs = 3,
       .traits = kPointwise,
       .attrs = {{"min", AttrKind::Float}, {"max", AttrKind::Float}},
       .infer = infer_clip},
      {.name = "fused",
       .doc = "(x...){expr, dtypes, reduced}: a region of pointwise operations and row reductions (ir/expr.h), in float32",
       .max_inputs = -1,
       .max_outputs = -1,
       .traits = kPointwise,
       .attrs = {{"expr", AttrKind::String, true}, {"dtypes", AttrKind::Strings}, {"reduced", AttrKind::Ints}},
       .infer = infer_fused},
  };
  return table;
}

}  // namespace tokamak::ir::ops
