// Operators that look for elements; the number found is usually a fresh symbol.

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void infer_topk(InferContext& ctx) {
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  const DType dtype = ctx.dtype(0);
  if (!ctx.ranked(0)) {
    ctx.set_unranked(0, dtype);
    if (ctx.num_outputs() > 1) ctx.set_unranked(1, DType::I64);
    return;
  }
  const int64_t axis = ctx.axis(ctx.attrs().get_int("axis", -1), ctx.rank(0));
  Dims dims = ctx.type(0).dims;
  const auto k = scalar_int(ctx, 1);
  if (k && k->is_const()) {
    if (k->value() < 0) ctx.fail("k is negative: {}", k->value());
    if (dims[axis].is_const() && k->value() > dims[axis].value())
      ctx.fail("k = {} exceeds dimension {} of {}", k->value(), axis, to_string(ctx.type(0)));
  }
  dims[axis] = k ? *k : ctx.fresh_symbol();
  if (ctx.num_outputs() > 1) ctx.set_type(1, DType::I64, dims);
  ctx.set_type(0, dtype, std::move(dims));
}

void infer_nonzero(InferContext& ctx) {
  ctx.set_type(0, DType::I64, {ctx.ranked(0) ? Dim(ctx.rank(0)) : ctx.fresh_symbol(), ctx.fresh_symbol()});
}

void infer_nms(InferContext& ctx) {
  require_float(ctx, 0);
  require_rank(ctx, 0, "boxes", 3, 3);
  require_rank(ctx, 1, "scores", 3, 3);
  if (ctx.ranked(0)) require_equal(ctx, ctx.dim(0, 2), 4, "the last dimension of boxes");
  if (ctx.ranked(0) && ctx.ranked(1)) {
    require_equal(ctx, ctx.dim(0, 0), ctx.dim(1, 0), "the batch of boxes and scores");
    require_equal(ctx, ctx.dim(0, 1), ctx.dim(1, 2), "the number of boxes and scores");
  }
  ctx.set_type(0, DType::I64, {ctx.fresh_symbol(), 3});
}

void infer_unique(InferContext& ctx) {
  const Dim found = ctx.fresh_symbol();
  const bool flat = !ctx.attrs().has("axis");
  Dim all = ctx.fresh_symbol();
  if (flat) {
    if (ctx.ranked(0)) all = ctx.type(0).num_elements();
    ctx.set_type(0, ctx.dtype(0), {found});
  } else if (ctx.ranked(0)) {
    Dims dims = ctx.type(0).dims;
    Dim& d = dims[ctx.axis(ctx.attrs().get_int("axis"), ctx.rank(0))];
    all = d;
    d = found;
    ctx.set_type(0, ctx.dtype(0), std::move(dims));
  } else {
    ctx.set_unranked(0, ctx.dtype(0));
  }
  for (int i = 1; i < ctx.num_outputs(); ++i) ctx.set_type(i, DType::I64, {i == 2 ? all : found});  // indices, inverse, counts
}

void infer_compress(InferContext& ctx) {
  require_rank(ctx, 1, "cond", 1, 1);
  if (ctx.dtype(1) != DType::Bool) ctx.fail("cond must be bool, found {}", to_string(ctx.dtype(1)));
  Dim kept;
  if (const auto cond = ctx.const_ints(1); cond && cond->size() <= kMaxKnownInts) {
    int64_t n = 0;
    for (int64_t c : *cond) n += c != 0;
    kept = n;
  } else {
    kept = ctx.fresh_symbol();
  }
  if (!ctx.attrs().has("axis")) return ctx.set_type(0, ctx.dtype(0), {kept});
  if (!ctx.ranked(0)) return ctx.set_unranked(0, ctx.dtype(0));
  Dims dims = ctx.type(0).dims;
  dims[ctx.axis(ctx.attrs().get_int("axis"), ctx.rank(0))] = kept;
  ctx.set_type(0, ctx.dtype(0), std::move(dims));
}

}  // namespace

std::span<const OpDef> search() {
  constexpr AttrKind I = AttrKind::Int;
  static const std::vector<OpDef> table = {
      {.name = "topk",
       .doc = "(x, k){axis=-1, largest=1, sorted=1}: the k largest or smallest along an axis; outputs values, i64 indices",
       .min_inputs = 2,
       .max_inputs = 2,
       .max_outputs = 2,
       .attrs = {{"axis", I}, {"largest", I}, {"sorted", I}},
       .infer = infer_topk},
      {.name = "nonzero",
       .doc = "(x): i64 [rank, n] coordinates of nonzero elements, row-major",
       .traits = kDataDependentShape,
       .infer = infer_nonzero},
      {.name = "nms",
       .doc = "(boxes, scores, max_per_class?, iou?, score?){center_point_box=0}: i64 [n, 3] of batch, class, box that survive suppression",
       .min_inputs = 2,
       .max_inputs = 5,
       .traits = kDataDependentShape,
       .attrs = {{"center_point_box", I}},
       .infer = infer_nms},
      {.name = "unique",
       .doc = "(x){axis, sorted=1}: distinct elements or slices; outputs values, first indices?, inverse?, counts?",
       .max_outputs = 4,
       .traits = kDataDependentShape,
       .attrs = {{"axis", I}, {"sorted", I}},
       .infer = infer_unique},
      {.name = "compress",
       .doc = "(x, cond){axis}: slices where cond is true; of flattened x without axis",
       .min_inputs = 2,
       .max_inputs = 2,
       .traits = kDataDependentShape,
       .attrs = {{"axis", I}},
       .infer = infer_compress},
  };
  return table;
}

}  // namespace tokamak::ir::ops
