// Quantisation.

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

void check_axis(const InferContext& ctx) {
  const bool per_axis = ctx.ranked(1) && ctx.rank(1) > 0 && !(ctx.rank(1) == 1 && ctx.dim(1, 0).is(1));
  if (ctx.attrs().get_int("block_size", 0) < 0) ctx.fail("block_size is negative: {}", ctx.attrs().get_int("block_size"));
  if (!per_axis || !ctx.ranked(0)) return;
  const int64_t axis = ctx.axis(ctx.attrs().get_int("axis", 1), ctx.rank(0));
  if (ctx.rank(1) == 1) require_equal(ctx, ctx.dim(1, 0), ctx.dim(0, axis), fmt::format("the number of scales and dimension {}", axis));
  else if (ctx.rank(1) != ctx.rank(0)) ctx.fail("block scales {} must have x's rank {}", to_string(ctx.type(1)), ctx.rank(0));
}

void infer_quantize(InferContext& ctx) {
  check_axis(ctx);
  TensorType t = ctx.type(0);
  t.dtype = ctx.attrs().get_dtype("to", ctx.has_input(2) ? ctx.dtype(2) : DType::U8);
  if (ctx.has_input(2) && ctx.dtype(2) != t.dtype) ctx.fail("the zero point is {}, `to` {}", to_string(ctx.dtype(2)), to_string(t.dtype));
  ctx.set_type(0, std::move(t));
}

void infer_dequantize(InferContext& ctx) {
  require_float(ctx, 1);
  require_same_dtype(ctx, 0, 2);
  check_axis(ctx);
  TensorType t = ctx.type(0);
  t.dtype = ctx.dtype(1);
  ctx.set_type(0, std::move(t));
}

void infer_dynamic_quantize(InferContext& ctx) {
  require_float(ctx, 0);
  TensorType t = ctx.type(0);
  t.dtype = DType::U8;
  ctx.set_type(0, std::move(t));
  if (ctx.num_outputs() > 1) ctx.set_type(1, DType::F32, {});
  if (ctx.num_outputs() > 2) ctx.set_type(2, DType::U8, {});
}

}  // namespace

std::span<const OpDef> quantize() {
  constexpr AttrKind I = AttrKind::Int;
  static const std::vector<OpDef> table = {
      {.name = "quantize",
       .doc = "(x, scale, zero?){axis=1, block_size=0, to, saturate=1}: x / scale + zero, rounded to even and saturated; u8 unless `to` or "
              "zero say otherwise",
       .min_inputs = 2,
       .max_inputs = 3,
       .attrs = {{"axis", I}, {"block_size", I}, {"to", AttrKind::DType}, {"saturate", I}},
       .infer = infer_quantize},
      {.name = "dequantize",
       .doc = "(x, scale, zero?){axis=1, block_size=0}: (x - zero) * scale, in scale's dtype",
       .min_inputs = 2,
       .max_inputs = 3,
       .attrs = {{"axis", I}, {"block_size", I}},
       .infer = infer_dequantize},
      {.name = "dynamic_quantize",
       .doc = "(x): outputs u8 y, f32 scale, u8 zero point of x's own range",
       .max_outputs = 3,
       .infer = infer_dynamic_quantize},
  };
  return table;
}

}  // namespace tokamak::ir::ops
