// Convolutions. x is [N, C, spatial...] or [N, spatial..., C]; w is [M, C/group, kernel...] (transposed: [C, M/group, kernel...]).

#include <limits>

#include "ir/ops/window.h"

namespace tokamak::ir::ops {
namespace {

int64_t checked_group(const InferContext& ctx) {
  const int64_t group = ctx.attrs().get_int("group", 1);
  if (group < 1) ctx.fail("`group` must be positive, found {}", group);
  return group;
}

void infer_convolution(InferContext& ctx, DType dtype) {
  require_rank(ctx, 0, "x", 3, 2 + 8);
  require_rank(ctx, 1, "w", 3, 2 + 8);
  const ActivationLayout layout = activation_layout(ctx);
  const int64_t group = checked_group(ctx);
  if (!ctx.ranked(0) && !ctx.ranked(1)) return ctx.set_unranked(0, dtype);
  if (ctx.ranked(0) && ctx.ranked(1) && ctx.rank(0) != ctx.rank(1))
    ctx.fail("x {} and w {} differ in rank", to_string(ctx.type(0)), to_string(ctx.type(1)));
  const int64_t n = (ctx.ranked(0) ? ctx.rank(0) : ctx.rank(1)) - 2;
  const Window window = window_attrs(ctx, n);
  const Dim out_channels = ctx.ranked(1) ? ctx.dim(1, 0) : ctx.fresh_symbol();
  if (out_channels.is_const() && out_channels.value() % group != 0)
    ctx.fail("{} output channels do not divide into {} groups", out_channels.value(), group);
  if (ctx.ranked(0) && ctx.ranked(1))
    require_equal(ctx, ctx.dim(0, layout.channel_axis()), ctx.dim(1, 1) * Dim(group), "the number of channels of x and of w times group");
  Dims spatial;
  for (int64_t i = 0; i < n; ++i) {
    if (ctx.ranked(0) && ctx.ranked(1))
      spatial.push_back(window_output(ctx, window, i, ctx.dim(0, layout.spatial_axis(i)), ctx.dim(1, 2 + i)));
    else spatial.push_back(ctx.fresh_symbol());
  }
  ctx.set_type(0, dtype, layout.shape(ctx.ranked(0) ? ctx.dim(0, 0) : ctx.fresh_symbol(), out_channels, spatial));
}

void infer_conv(InferContext& ctx) {
  require_float(ctx, 0);
  if (!is_float(ctx.dtype(1))) require_same_dtype(ctx, 0, 1);
  infer_convolution(ctx, ctx.dtype(0));
  const int64_t epilogue = ctx.attrs().get_int("epilogue_input", std::numeric_limits<int64_t>::max());
  if (ctx.has_input(2) && epilogue > 2) {
    require_rank(ctx, 2, "bias", 1, 1);
    if (ctx.ranked(2) && ctx.ranked(1)) require_equal(ctx, ctx.dim(2, 0), ctx.dim(1, 0), "the length of bias and of w");
  }
}

void infer_conv_integer(InferContext& ctx) {
  require_integer(ctx, 0);
  require_integer(ctx, 1);
  infer_convolution(ctx, DType::I32);
}

void infer_conv_transpose(InferContext& ctx) {
  require_float(ctx, 0);
  require_rank(ctx, 0, "x", 3, 2 + 8);
  require_rank(ctx, 1, "w", 3, 2 + 8);
  const DType dtype = ctx.dtype(0);
  const ActivationLayout layout = activation_layout(ctx);
  const int64_t group = checked_group(ctx);
  if (!ctx.ranked(0) || !ctx.ranked(1)) return ctx.set_unranked(0, dtype);
  if (ctx.rank(0) != ctx.rank(1)) ctx.fail("x {} and w {} differ in rank", to_string(ctx.type(0)), to_string(ctx.type(1)));
  const int64_t n = ctx.rank(0) - 2;
  const Window window = window_attrs(ctx, n);
  require_equal(ctx, ctx.dim(0, layout.channel_axis()), ctx.dim(1, 0), "the number of channels of x and w");
  if (ctx.dim(1, 0).is_const() && ctx.dim(1, 0).value() % group != 0)
    ctx.fail("{} channels do not divide into {} groups", ctx.dim(1, 0).value(), group);
  const Ints more = ctx.attrs().get_ints("output_padding", Ints(static_cast<size_t>(n)));
  const Ints fixed = ctx.attrs().get_ints("output_shape", {});
  if (!more.empty() && static_cast<int64_t>(more.size()) != n) ctx.fail("`output_padding` must have {} entries, found {}", n, more.size());
  if (!fixed.empty() && static_cast<int64_t>(fixed.size()) != n) ctx.fail("`output_shape` must have {} entries, found {}", n, fixed.size());
  Dims spatial;
  for (int64_t i = 0; i < n; ++i) {
    const Dim &size = ctx.dim(0, layout.spatial_axis(i)), &kernel = ctx.dim(1, 2 + i);
    const Dim stride = window.strides[i];
    Dim out;
    if (!fixed.empty()) out = fixed[i];
    else if (window.auto_pad == "SAME_UPPER" || window.auto_pad == "SAME_LOWER") out = size * stride;
    else {
      out = stride * (size - 1) + (kernel - 1) * Dim(window.dilations[i]) + 1 + (more.empty() ? 0 : more[i]);
      if (window.auto_pad == "NOTSET") out = out - window.pads[i] - window.pads[n + i];
    }
    if (out.is_const() && out.value() < 0) ctx.fail("spatial dimension {} becomes negative: {}", i, out.value());
    spatial.push_back(out);
  }
  ctx.set_type(0, dtype, layout.shape(ctx.dim(0, 0), ctx.dim(1, 1) * Dim(group), spatial));
}

}  // namespace

std::span<const OpDef> conv() {
  constexpr AttrKind I = AttrKind::Int, Is = AttrKind::Ints, S = AttrKind::String;
  static const std::vector<OpDef> table = {
      {.name = "conv",
       .doc = "(x, w, bias?, extra...){strides, pads, dilations, group=1, auto_pad=\"NOTSET\", layout=\"NCHW\", epilogue, epilogue_input}: "
              "convolution",
       .min_inputs = 2,
       .max_inputs = -1,
       .attrs = {{"strides", Is},
                 {"pads", Is},
                 {"dilations", Is},
                 {"group", I},
                 {"auto_pad", S},
                 {"layout", S},
                 {"epilogue", S},
                 {"epilogue_input", I}},
       .infer = infer_conv},
      {.name = "conv_integer",
       .doc = "(x, w, x_zero?, w_zero?){strides, pads, dilations, group=1, auto_pad, layout}: i32 convolution of 8-bit tensors",
       .min_inputs = 2,
       .max_inputs = 4,
       .attrs = {{"strides", Is}, {"pads", Is}, {"dilations", Is}, {"group", I}, {"auto_pad", S}, {"layout", S}},
       .infer = infer_conv_integer},
      {.name = "conv_transpose",
       .doc = "(x, w, bias?){strides, pads, dilations, group=1, output_padding, output_shape, auto_pad, layout}: gradient of a convolution",
       .min_inputs = 2,
       .max_inputs = 3,
       .attrs = {{"strides", Is},
                 {"pads", Is},
                 {"dilations", Is},
                 {"group", I},
                 {"output_padding", Is},
                 {"output_shape", Is},
                 {"auto_pad", S},
                 {"layout", S}},
       .infer = infer_conv_transpose},
  };
  return table;
}

}  // namespace tokamak::ir::ops
