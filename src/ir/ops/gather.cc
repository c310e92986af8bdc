// Indexed reads and writes.

#include <algorithm>

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void require_index_type(const InferContext& ctx, int input) {
  const DType t = ctx.dtype(input);
  if (t != DType::I32 && t != DType::I64) ctx.fail("indices must be i32 or i64, found {}", to_string(t));
}

void infer_gather(InferContext& ctx) {
  require_index_type(ctx, 1);
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  const DType dtype = ctx.dtype(0);
  if (!ctx.ranked(0) || !ctx.ranked(1)) return ctx.set_unranked(0, dtype);
  const int64_t axis = ctx.axis(ctx.attrs().get_int("axis", 0), ctx.rank(0));
  const Dims &x = ctx.type(0).dims, &indices = ctx.type(1).dims;
  Dims dims(x.begin(), x.begin() + axis);
  dims.insert(dims.end(), indices.begin(), indices.end());
  dims.insert(dims.end(), x.begin() + axis + 1, x.end());
  ctx.set_type(0, dtype, std::move(dims));
  if (ctx.rank(0) != 1) return;
  const auto values = ctx.ints(0);
  const auto at = ctx.const_ints(1);
  if (!values || !at) return;
  const int64_t n = static_cast<int64_t>(values->size());
  Dims contents;
  for (int64_t i : *at) {
    if (i < -n || i >= n) return;  // the kernel reports it, if it ever runs
    contents.push_back((*values)[i < 0 ? i + n : i]);
  }
  ctx.set_ints(0, std::move(contents));
}

void infer_gather_elements(InferContext& ctx) {
  require_index_type(ctx, 1);
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  if (ctx.ranked(0)) ctx.axis(ctx.attrs().get_int("axis", 0), ctx.rank(0));
  if (ctx.ranked(0) && ctx.ranked(1) && ctx.rank(0) != ctx.rank(1))
    ctx.fail("x and indices differ in rank: {} vs {}", to_string(ctx.type(0)), to_string(ctx.type(1)));
  TensorType t = ctx.type(1);
  t.dtype = ctx.dtype(0);
  ctx.set_type(0, std::move(t));
}

void infer_gather_nd(InferContext& ctx) {
  require_index_type(ctx, 1);
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  require_rank(ctx, 1, "indices", 1, kMaxInferredRank);
  const DType dtype = ctx.dtype(0);
  if (!ctx.ranked(0) || !ctx.ranked(1) || !ctx.dim(1, -1).is_const()) return ctx.set_unranked(0, dtype);
  const int64_t batch = ctx.attrs().get_int("batch_dims", 0), depth = ctx.dim(1, -1).value();
  if (batch < 0 || batch >= ctx.rank(1) || depth < 0 || depth > ctx.rank(0) - batch)
    ctx.fail("indices {} with batch_dims {} do not address {}", to_string(ctx.type(1)), batch, to_string(ctx.type(0)));
  for (int64_t i = 0; i < batch; ++i) require_equal(ctx, ctx.dim(0, i), ctx.dim(1, i), fmt::format("batch dimension {}", i));
  const Dims &x = ctx.type(0).dims, &indices = ctx.type(1).dims;
  Dims dims(indices.begin(), indices.end() - 1);
  dims.insert(dims.end(), x.begin() + batch + depth, x.end());
  ctx.set_type(0, dtype, std::move(dims));
}

void check_reduction(const InferContext& ctx) {
  const std::string reduction = ctx.attrs().get_string("reduction", "none");
  for (const char* known : {"none", "add", "mul", "max", "min"})
    if (reduction == known) return;
  ctx.fail("unknown reduction \"{}\"", reduction);
}

void infer_scatter_elements(InferContext& ctx) {
  require_index_type(ctx, 1);
  require_same_dtype(ctx, 0, 2);
  check_reduction(ctx);
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  if (ctx.ranked(0)) ctx.axis(ctx.attrs().get_int("axis", 0), ctx.rank(0));
  for (int i : {1, 2})
    if (ctx.ranked(0) && ctx.ranked(i) && ctx.rank(0) != ctx.rank(i))
      ctx.fail("x and input {} differ in rank: {} vs {}", i, ctx.rank(0), ctx.rank(i));
  same_type(ctx);
}

void infer_scatter_nd(InferContext& ctx) {
  require_index_type(ctx, 1);
  require_same_dtype(ctx, 0, 2);
  check_reduction(ctx);
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  require_rank(ctx, 1, "indices", 1, kMaxInferredRank);
  if (ctx.ranked(0) && ctx.ranked(1) && ctx.dim(1, -1).is_const()) {
    const int64_t depth = ctx.dim(1, -1).value();
    if (depth < 0 || depth > ctx.rank(0)) ctx.fail("indices {} do not address {}", to_string(ctx.type(1)), to_string(ctx.type(0)));
    const int64_t rank = ctx.rank(1) - 1 + ctx.rank(0) - depth;
    if (ctx.ranked(2) && ctx.rank(2) != rank) ctx.fail("updates must have {} dimensions, found {}", rank, to_string(ctx.type(2)));
  }
  same_type(ctx);
}

}  // namespace

std::span<const OpDef> gather() {
  constexpr AttrKind I = AttrKind::Int, S = AttrKind::String;
  static const std::vector<OpDef> table = {
      {.name = "gather",
       .doc = "(x, indices){axis=0}: slices of x at the indices, which may be negative",
       .min_inputs = 2,
       .max_inputs = 2,
       .traits = kMovement,
       .attrs = {{"axis", I}},
       .infer = infer_gather},
      {.name = "gather_elements",
       .doc = "(x, indices){axis=0}: x with its index on one axis replaced, in the shape of indices",
       .min_inputs = 2,
       .max_inputs = 2,
       .traits = kMovement,
       .attrs = {{"axis", I}},
       .infer = infer_gather_elements},
      {.name = "gather_nd",
       .doc = "(x, indices){batch_dims=0}: slices of x at the index tuples in the last axis of indices",
       .min_inputs = 2,
       .max_inputs = 2,
       .traits = kMovement,
       .attrs = {{"batch_dims", I}},
       .infer = infer_gather_nd},
      {.name = "scatter_elements",
       .doc = "(x, indices, updates){axis=0, reduction=\"none\"|\"add\"|\"mul\"|\"max\"|\"min\"}: x with elements written",
       .min_inputs = 3,
       .max_inputs = 3,
       .traits = kMovement,
       .attrs = {{"axis", I}, {"reduction", S}},
       .infer = infer_scatter_elements},
      {.name = "scatter_nd",
       .doc = "(x, indices, updates){reduction=\"none\"|\"add\"|\"mul\"|\"max\"|\"min\"}: x with slices written at index tuples",
       .min_inputs = 3,
       .max_inputs = 3,
       .traits = kMovement,
       .attrs = {{"reduction", S}},
       .infer = infer_scatter_nd},
  };
  return table;
}

}  // namespace tokamak::ir::ops
