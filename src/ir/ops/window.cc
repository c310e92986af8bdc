#include "ir/ops/window.h"

namespace tokamak::ir::ops {

Dims ActivationLayout::shape(Dim batch, Dim channels, const Dims& spatial) const {
  Dims dims{std::move(batch)};
  if (!channels_last) dims.push_back(channels);
  dims.insert(dims.end(), spatial.begin(), spatial.end());
  if (channels_last) dims.push_back(channels);
  return dims;
}

ActivationLayout activation_layout(const InferContext& ctx) {
  const std::string layout = ctx.attrs().get_string("layout", "NCHW");
  if (layout != "NCHW" && layout != "NHWC") ctx.fail("`layout` must be NCHW or NHWC, found \"{}\"", layout);
  return {layout == "NHWC"};
}

Window window_attrs(const InferContext& ctx, int64_t n) {
  const auto list = [&](const char* name, int64_t count, int64_t otherwise, int64_t least) {
    Ints values = ctx.attrs().get_ints(name, {});
    if (values.empty()) values.assign(static_cast<size_t>(count), otherwise);
    if (static_cast<int64_t>(values.size()) != count) ctx.fail("`{}` must have {} entries, found {}", name, count, values.size());
    for (int64_t v : values)
      if (v < least) ctx.fail("`{}` must be at least {}, found {}", name, least, v);
    return values;
  };
  Window w;
  w.strides = list("strides", n, 1, 1);
  w.dilations = list("dilations", n, 1, 1);
  w.pads = list("pads", 2 * n, 0, 0);
  w.auto_pad = ctx.attrs().get_string("auto_pad", "NOTSET");
  if (w.auto_pad.empty()) w.auto_pad = "NOTSET";
  if (w.auto_pad != "NOTSET" && w.auto_pad != "VALID" && w.auto_pad != "SAME_UPPER" && w.auto_pad != "SAME_LOWER")
    ctx.fail("unknown auto_pad \"{}\"", w.auto_pad);
  w.ceil_mode = ctx.attrs().get_bool("ceil_mode", false);
  return w;
}

Dim window_output(const InferContext& ctx, const Window& w, int64_t i, const Dim& size, const Dim& kernel) {
  const Dim stride = w.strides[i];
  if (kernel.is_const() && kernel.value() < 1) ctx.fail("kernel size {} of spatial dimension {} must be positive", kernel.value(), i);
  if (w.auto_pad == "SAME_UPPER" || w.auto_pad == "SAME_LOWER") return Dim::ceildiv(size, stride);
  const bool padded = w.auto_pad == "NOTSET";
  const Dim begin = padded ? w.pads[i] : 0, end = padded ? w.pads[w.strides.size() + i] : 0;
  const Dim reach = (kernel - 1) * Dim(w.dilations[i]) + 1;
  const Dim room = size + begin + end - reach;
  if (room.is_const() && room.value() < 0)
    ctx.fail("a window of {} does not fit spatial dimension {} of {} (with pads {} and {})", reach.to_string(), i, size.to_string(),
             begin.value(), end.value());
  if (!w.ceil_mode) return Dim::floordiv(room, stride) + 1;
  return Dim::min(Dim::ceildiv(room, stride) + 1, Dim::floordiv(size + begin - 1, stride) + 1);
}

}  // namespace tokamak::ir::ops
