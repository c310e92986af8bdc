#pragma once
// Sliding windows: the geometry that convolutions and pools share. Everything is checked, since it comes from files.

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {

// Where the axes of an activation are: NCHW (batch, channels, spatial...) or NHWC.
struct ActivationLayout {
  bool channels_last = false;
  int64_t channel_axis() const { return channels_last ? -1 : 1; }
  int64_t spatial_axis(int64_t i) const { return channels_last ? 1 + i : 2 + i; }
  Dims shape(Dim batch, Dim channels, const Dims& spatial) const;
};

// From attribute `layout`.
ActivationLayout activation_layout(const InferContext& ctx);

struct Window {
  Ints strides, dilations, pads;  // pads: begins, then ends
  std::string auto_pad;
  bool ceil_mode = false;
};

// Reads the attributes for `n` spatial dimensions, filling defaults. Fails on wrong counts, strides or dilations below 1, negative pads.
Window window_attrs(const InferContext& ctx, int64_t n);

// Size of spatial dimension i after sliding a window of `kernel` over `size`. Fails when the window does not fit. Rounding up keeps only
// windows that start inside the input or the left padding.
Dim window_output(const InferContext& ctx, const Window& w, int64_t i, const Dim& size, const Dim& kernel);

}  // namespace tokamak::ir::ops
