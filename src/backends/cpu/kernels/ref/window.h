#pragma once
// Sliding windows of convolutions and pools: attributes and shapes brought to three spatial axes, channels-first or channels-last.

#include <array>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {

using Triple = std::array<int64_t, 3>;  // depth, height, width; missing leading axes are 1 (pads 0)

// Where the axes of an activation are.
struct Planes {
  int64_t batch = 1, channels = 1;
  Triple size{1, 1, 1};
  int64_t batch_stride = 0, channel_stride = 0;
  Triple strides{0, 0, 0};

  Planes(const Shape& shape, bool channels_last);
  int64_t area() const { return size[0] * size[1] * size[2]; }
  int64_t at(int64_t n, int64_t c, int64_t d, int64_t h, int64_t w) const {
    return n * batch_stride + c * channel_stride + d * strides[0] + h * strides[1] + w * strides[2];
  }
};

struct Window {
  Triple kernel{1, 1, 1}, stride{1, 1, 1}, dilation{1, 1, 1}, pad_begin{0, 0, 0}, pad_end{0, 0, 0};

  // `kernel` are the spatial sizes of the window. auto_pad is resolved from the shapes of a forward window (not a transposed one).
  Window(const NodeView& node, const Shape& kernel, const Planes& in, const Planes& out);
  int64_t area() const { return kernel[0] * kernel[1] * kernel[2]; }
};

Triple spatial_triple(const std::vector<int64_t>& values, int64_t missing);
bool is_channels_last(const NodeView& node);

// The tensor as doubles, channels first: [batch, channels, depth, height, width].
std::vector<double> planar_doubles(const Tensor& tensor, const Planes& planes);

}  // namespace tokamak::cpu::ref
