// Pooling windows.

#include "ir/ops/window.h"

namespace tokamak::ir::ops {
namespace {

void infer_pool(InferContext& ctx) {
  const DType dtype = ctx.dtype(0);
  const Ints kernel = ctx.attrs().get_ints("kernel");
  if (kernel.empty() || kernel.size() > 8) ctx.fail("`kernel` has {} entries", kernel.size());
  const int64_t n = static_cast<int64_t>(kernel.size());
  const ActivationLayout layout = activation_layout(ctx);
  const Window window = window_attrs(ctx, n);
  require_rank(ctx, 0, "x", n + 2, n + 2);
  Dims dims = fresh_dims(ctx, ctx.ranked(0) ? 0 : n + 2);
  if (ctx.ranked(0)) {
    Dims spatial;
    for (int64_t i = 0; i < n; ++i) spatial.push_back(window_output(ctx, window, i, ctx.dim(0, layout.spatial_axis(i)), kernel[i]));
    dims = layout.shape(ctx.dim(0, 0), ctx.dim(0, layout.channel_axis()), spatial);
  }
  if (ctx.num_outputs() > 1) ctx.set_type(1, DType::I64, dims);
  ctx.set_type(0, dtype, std::move(dims));
}

}  // namespace

std::span<const OpDef> pool() {
  constexpr AttrKind I = AttrKind::Int, Is = AttrKind::Ints, S = AttrKind::String;
  const auto attrs = [](std::vector<AttrSpec> more) {
    std::vector<AttrSpec> all = {{"kernel", Is, true}, {"strides", Is}, {"pads", Is}, {"dilations", Is},
                                 {"ceil_mode", I},     {"auto_pad", S}, {"layout", S}};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  static const std::vector<OpDef> table = {
      {.name = "max_pool",
       .doc = "(x){kernel, strides, pads, dilations, ceil_mode=0, auto_pad, layout, storage_order=0}: largest in each window; outputs y, "
              "indices?",
       .max_outputs = 2,
       .attrs = attrs({{"storage_order", I}}),
       .infer = infer_pool},
      {.name = "avg_pool",
       .doc = "(x){kernel, strides, pads, dilations, ceil_mode=0, count_include_pad=0, auto_pad, layout}: mean of each window",
       .attrs = attrs({{"count_include_pad", I}}),
       .infer = infer_pool},
      {.name = "lp_pool",
       .doc = "(x){p=2, kernel, strides, pads, dilations, ceil_mode=0, auto_pad, layout}: p-norm of each window",
       .attrs = attrs({{"p", I}}),
       .infer = infer_pool},
  };
  return table;
}

}  // namespace tokamak::ir::ops
