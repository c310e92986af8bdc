// resize: ONNX's Resize. `scales` and `sizes` follow the axes of x as stored (or `axes`).

#include <algorithm>
#include <cmath>

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

// floor(size * scale), in float as ONNX runtimes compute it; symbolic for whole scales and their reciprocals.
Dim scaled(InferContext& ctx, const Dim& size, double scale) {
  if (!(scale >= 1e-9) || scale > 1e9) ctx.fail("scale {} must be positive and between 1e-9 and 1e9", scale);
  if (size.is_const()) {
    const double out = std::floor(static_cast<float>(size.value()) * static_cast<float>(scale));
    if (out > 1e15) ctx.fail("{} times scale {} is too large", size.value(), scale);
    return static_cast<int64_t>(out);
  }
  if (scale == std::floor(scale)) return size * Dim(static_cast<int64_t>(scale));
  if (1 / scale == std::floor(1 / scale)) return Dim::floordiv(size, static_cast<int64_t>(1 / scale));
  return ctx.fresh_symbol();
}

void infer_resize(InferContext& ctx) {
  const DType dtype = ctx.dtype(0);
  if (!ctx.ranked(0)) return ctx.set_unranked(0, dtype);
  const int64_t rank = ctx.rank(0);
  Ints axes = ctx.attrs().get_ints("axes", {});
  if (axes.empty())
    for (int64_t i = 0; i < rank; ++i) axes.push_back(i);
  for (int64_t& a : axes) a = ctx.axis(a, rank);
  Dims dims = ctx.type(0).dims;
  const bool has_scales = ctx.has_input(2) && !(ctx.ranked(2) && ctx.rank(2) == 1 && ctx.dim(2, 0).is(0));
  if (has_scales == ctx.has_input(3)) ctx.fail("expected either scales or sizes");
  if (has_scales) {
    const Tensor* scales = ctx.constant(2);
    if (scales && (scales->count() != static_cast<int64_t>(axes.size()) || !is_float(scales->dtype())))
      ctx.fail("expected {} float scales, found {}", axes.size(), to_string(ctx.type(2)));
    for (size_t i = 0; i < axes.size(); ++i)
      dims[axes[i]] = scales ? scaled(ctx, ctx.dim(0, axes[i]), scales->float_at(static_cast<int64_t>(i))) : ctx.fresh_symbol();
    return ctx.set_type(0, dtype, std::move(dims));
  }
  const auto sizes = ctx.ints(3);
  if (sizes && sizes->size() != axes.size()) ctx.fail("expected {} sizes, found {}", axes.size(), sizes->size());
  const std::string policy = ctx.attrs().get_string("keep_aspect_ratio_policy", "stretch");
  if (policy != "stretch" && policy != "not_larger" && policy != "not_smaller") ctx.fail("unknown keep_aspect_ratio_policy \"{}\"", policy);
  std::optional<double> common;
  bool exact = sizes.has_value();
  for (size_t i = 0; i < axes.size() && exact; ++i) {
    const Dim &size = (*sizes)[i], &old = ctx.dim(0, axes[i]);
    if (size.is_const() && size.value() < 0) ctx.fail("size {} is negative", size.value());
    if (policy == "stretch") continue;
    exact = size.is_const() && old.is_const() && old.value() > 0;
    if (!exact) break;
    const double ratio = static_cast<double>(size.value()) / static_cast<double>(old.value());
    common = !common ? ratio : policy == "not_larger" ? std::min(*common, ratio) : std::max(*common, ratio);
  }
  for (size_t i = 0; i < axes.size(); ++i) {
    Dim& d = dims[axes[i]];
    if (!exact) d = ctx.fresh_symbol();
    else if (policy == "stretch") d = (*sizes)[i];
    else d = static_cast<int64_t>(std::floor(std::min(static_cast<double>(d.value()) * *common, 1e15) + 0.5));
  }
  ctx.set_type(0, dtype, std::move(dims));
}

}  // namespace

std::span<const OpDef> resize() {
  constexpr AttrKind I = AttrKind::Int, F = AttrKind::Float, S = AttrKind::String;
  static const std::vector<OpDef> table = {
      {.name = "resize",
       .doc = "(x, roi?, scales?, sizes?){mode, coordinate_transformation_mode, nearest_mode, ...}: resampled; scales and sizes follow x's "
              "axes as stored",
       .max_inputs = 4,
       .attrs = {{"mode", S},
                 {"coordinate_transformation_mode", S},
                 {"nearest_mode", S},
                 {"cubic_coeff_a", F},
                 {"exclude_outside", I},
                 {"extrapolation_value", F},
                 {"antialias", I},
                 {"axes", AttrKind::Ints},
                 {"keep_aspect_ratio_policy", S},
                 {"layout", S}},
       .infer = infer_resize},
  };
  return table;
}

}  // namespace tokamak::ir::ops
