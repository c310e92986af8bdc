// Softmax and normalisations.

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void infer_softmax(InferContext& ctx) {
  require_float(ctx, 0);
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  if (ctx.ranked(0)) ctx.axis(ctx.attrs().get_int("axis", -1), ctx.rank(0));
  same_type(ctx);
}

// scale and bias must broadcast to x without widening it.
void require_broadcasts_to_x(const InferContext& ctx, int input) {
  if (!ctx.has_input(input) || !ctx.ranked(input) || !ctx.ranked(0)) return;
  if (ctx.rank(input) > ctx.rank(0))
    ctx.fail("input {} {} has more dimensions than x {}", input, to_string(ctx.type(input)), to_string(ctx.type(0)));
  for (int64_t i = 1; i <= ctx.rank(input); ++i)
    if (!ctx.dim(input, -i).is(1))
      require_equal(ctx, ctx.dim(input, -i), ctx.dim(0, -i), fmt::format("dimension {} of input {} and x", -i, input));
}

// The type of per-row statistics: x's dimensions up to `axis`, then ones; f32.
TensorType statistics(const InferContext& ctx, int64_t axis) {
  TensorType t = ctx.type(0);
  t.dtype = DType::F32;
  for (int64_t i = axis; i < t.rank(); ++i) t.dims[i] = 1;
  return t;
}

void infer_row_norm(InferContext& ctx) {  // layer_norm, rms_norm
  require_float(ctx, 0);
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  const int64_t axis = ctx.ranked(0) ? ctx.axis(ctx.attrs().get_int("axis", -1), ctx.rank(0)) : 0;
  for (int i = 1; i < ctx.num_inputs(); ++i) require_broadcasts_to_x(ctx, i);
  same_type(ctx);
  for (int i = 1; i < ctx.num_outputs(); ++i) ctx.set_type(i, statistics(ctx, axis));
}

void infer_add_norm(InferContext& ctx) {
  require_float(ctx, 0);
  require_same_dtype(ctx, 0, 1);
  require_rank(ctx, 0, "x", 1, kMaxInferredRank);
  TensorType sum = TensorType::unranked(ctx.dtype(0));
  if (ctx.ranked(0) && ctx.ranked(1)) {
    sum = TensorType(ctx.dtype(0), ctx.broadcast(ctx.type(0).dims, ctx.type(1).dims));
    ctx.axis(ctx.attrs().get_int("axis", -1), sum.rank());
  }
  for (int i = 2; i < ctx.num_inputs(); ++i)
    if (ctx.has_input(i) && ctx.ranked(i) && sum.ranked) ctx.broadcast(sum.dims, ctx.type(i).dims);
  for (int i = 0; i < ctx.num_outputs(); ++i) ctx.set_type(i, sum);
}

void require_per_channel(const InferContext& ctx, int first, int last, int64_t axis = 1) {
  for (int i = first; i <= last; ++i) {
    if (!ctx.has_input(i)) continue;
    require_rank(ctx, i, "a per-channel input", 1, 1);
    if (ctx.ranked(i) && ctx.ranked(0))
      require_equal(ctx, ctx.dim(i, 0), ctx.dim(0, axis), fmt::format("the number of channels of input {} and x", i));
  }
}

void infer_batch_norm(InferContext& ctx) {
  require_float(ctx, 0);
  require_rank(ctx, 0, "x", 2, kMaxInferredRank);
  require_per_channel(ctx, 1, 4);
  same_type(ctx);
}

void infer_instance_norm(InferContext& ctx) {
  require_float(ctx, 0);
  require_rank(ctx, 0, "x", 2, kMaxInferredRank);
  require_per_channel(ctx, 1, 2);
  same_type(ctx);
}

void infer_group_norm(InferContext& ctx) {
  require_float(ctx, 0);
  require_rank(ctx, 0, "x", 2, kMaxInferredRank);
  const int64_t groups = ctx.attrs().get_int("num_groups");
  if (groups < 1) ctx.fail("num_groups must be positive, found {}", groups);
  const std::string layout = ctx.attrs().get_string("layout", "NCHW");
  if (layout != "NCHW" && layout != "NHWC") ctx.fail("`layout` must be NCHW or NHWC, found \"{}\"", layout);
  const int64_t axis = layout == "NHWC" ? -1 : 1;
  if (ctx.ranked(0) && ctx.dim(0, axis).is_const() && ctx.dim(0, axis).value() % groups != 0)
    ctx.fail("{} channels do not divide into {} groups", ctx.dim(0, axis).value(), groups);
  require_per_channel(ctx, 1, 2, axis);
  same_type(ctx);
}

void infer_lrn(InferContext& ctx) {
  require_float(ctx, 0);
  require_rank(ctx, 0, "x", 2, kMaxInferredRank);
  if (ctx.attrs().get_int("size") < 1) ctx.fail("size must be positive, found {}", ctx.attrs().get_int("size"));
  same_type(ctx);
}

}  // namespace

std::span<const OpDef> norm() {
  constexpr AttrKind I = AttrKind::Int, F = AttrKind::Float;
  static const std::vector<OpDef> table = {
      {.name = "softmax", .doc = "(x){axis=-1}: e^x over its sum along an axis", .attrs = {{"axis", I}}, .infer = infer_softmax},
      {.name = "log_softmax", .doc = "(x){axis=-1}: logarithm of softmax", .attrs = {{"axis", I}}, .infer = infer_softmax},
      {.name = "layer_norm",
       .doc = "(x, scale?, bias?){axis=-1, epsilon}: (x - mean) / sqrt(var + epsilon) * scale + bias over the axes from `axis` on; outputs "
              "y, mean?, inv_std?",
       .max_inputs = 3,
       .max_outputs = 3,
       .attrs = {{"axis", I}, {"epsilon", F}},
       .infer = infer_row_norm},
      {.name = "rms_norm",
       .doc = "(x, scale?){axis=-1, epsilon}: x / sqrt(mean(x^2) + epsilon) * scale over the axes from `axis` on",
       .max_inputs = 2,
       .attrs = {{"axis", I}, {"epsilon", F}},
       .infer = infer_row_norm},
      {.name = "add_layer_norm",
       .doc = "(x, residual, scale?, bias?){axis=-1, epsilon}: layer_norm(x + residual), and the sum",
       .min_inputs = 2,
       .max_inputs = 4,
       .max_outputs = 2,
       .attrs = {{"axis", I}, {"epsilon", F}},
       .infer = infer_add_norm},
      {.name = "add_rms_norm",
       .doc = "(x, residual, scale?, bias?){axis=-1, epsilon}: rms_norm(x + residual), and the sum",
       .min_inputs = 2,
       .max_inputs = 4,
       .max_outputs = 2,
       .attrs = {{"axis", I}, {"epsilon", F}},
       .infer = infer_add_norm},
      {.name = "batch_norm",
       .doc = "(x, scale, bias, mean, var){epsilon}: inference form, channel axis 1",
       .min_inputs = 5,
       .max_inputs = 5,
       .attrs = {{"epsilon", F}},
       .infer = infer_batch_norm},
      {.name = "instance_norm",
       .doc = "(x, scale, bias){epsilon}: normalised over the spatial axes of each channel",
       .min_inputs = 3,
       .max_inputs = 3,
       .attrs = {{"epsilon", F}},
       .infer = infer_instance_norm},
      {.name = "group_norm",
       .doc = "(x, scale, bias){num_groups, epsilon, layout=\"NCHW\"}: normalised over groups of channels; scale and bias per channel",
       .min_inputs = 3,
       .max_inputs = 3,
       .attrs = {{"num_groups", I, true}, {"epsilon", F}, {"layout", AttrKind::String}},
       .infer = infer_group_norm},
      {.name = "lrn",
       .doc = "(x){size, alpha, beta, bias}: local response normalisation across channels",
       .attrs = {{"size", I, true}, {"alpha", F}, {"beta", F}, {"bias", F}},
       .infer = infer_lrn},
  };
  return table;
}

}  // namespace tokamak::ir::ops
