#pragma once
// Where the outputs of resize come from, for other kernels that make tables of it.

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {

// What one output coordinate of an axis reads: a weighted sum of input coordinates. None: outside the image, the extrapolation value.
struct ResizeTaps {
  std::vector<int64_t> index;
  std::vector<double> weight;
};

// For every axis of x the taps of each output coordinate; no entries for an axis that stays as it is. The contents of the optional inputs
// are empty when absent. Throws Unsupported on an unknown mode.
std::vector<std::vector<ResizeTaps>> resize_taps(const NodeView& node, const std::vector<double>& roi, const std::vector<double>& scales,
                                                 const std::vector<double>& sizes);

}  // namespace tokamak::cpu::ref
