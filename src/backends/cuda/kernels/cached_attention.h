#pragma once
// What the kernels that norm and rotate heads on their way into the cache share.

#include "backends/cuda/kernels/paged_attention.h"

namespace tokamak::cuda {

// cos, sin, q_norm and k_norm: inputs `first` to `first` + 3 of a node, any of them absent.
class RotateInputs {
 public:
  RotateInputs(const NodeView& node, int first) : node_(node), first_(first) {}
  bool has(int i) const { return first_ + i < node_.num_inputs() && node_.has_input(first_ + i); }
  Support supports() const;
  int64_t half() const { return has(0) ? node_.input_shapes[first_][1] : 0; }
  std::vector<std::string> defines() const;  // ANGLE, NORM, HALF, INTERLEAVED, HAS_Q_NORM, HAS_K_NORM

 private:
  const NodeView& node_;
  int first_;
};

}  // namespace tokamak::cuda
