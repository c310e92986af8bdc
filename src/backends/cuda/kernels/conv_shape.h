#pragma once
// The sizes of a convolution, read once from a node and brought to three spatial axes.

#include <array>
#include <string>
#include <vector>

#include "runtime/kernel.h"

namespace tokamak::cuda {

using Triple = std::array<int64_t, 3>;  // depth, height, width; missing leading axes are 1 (pads 0)

// x is [n, c, size] or [n, size, c], y the same with m and out; w is [m, c / group, kernel] (transposed: [c, m / group, kernel]).
struct ConvShape {
  int64_t n = 1, c = 1, m = 1, group = 1;
  Triple size{1, 1, 1}, out{1, 1, 1}, kernel{1, 1, 1};
  Triple stride{1, 1, 1}, dilation{1, 1, 1}, pad_begin{0, 0, 0}, pad_end{0, 0, 0};
  bool channels_last = false, transposed = false;
  int spatial_rank = 2;

  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t in_area() const { return size[0] * size[1] * size[2]; }
  int64_t out_area() const { return out[0] * out[1] * out[2]; }
  int64_t group_c() const { return c / group; }
  int64_t group_m() const { return m / group; }
  bool is_depthwise() const { return group == c && m == c; }

  // All of it but n as defines of device code (a batch size needs no kernel of its own): C_SIZE, M_SIZE, GROUP, IN_D, IN_H, IN_W, OUT_D...,
  // KERNEL_D..., STRIDE_D..., DILATION_D..., PAD_D..., CHANNELS_LAST.
  std::vector<std::string> defines() const;
};

// Fills `shape` or says why not.
Support conv_shape(const NodeView& node, ConvShape& shape);

}  // namespace tokamak::cuda
