#pragma once
// Copies between a dense tensor and a walk of another: what transpose, slice, tile and the block rearrangements are.

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {

// out[...] (dense, of `shape`) = in[offset + sum of index * stride], elements of `bytes`. Strides may be 0 or negative.
struct StridedMove {
  Shape shape;
  std::vector<int64_t> strides;
  int64_t offset = 0;
  int64_t bytes = 4;
};

// Picks the form: whole runs in units of up to 16 bytes; a tiled transpose where the contiguous axes of both sides differ; else by element.
std::unique_ptr<Kernel> make_strided_move(const NodeView& node, const StridedMove& move, const std::string& name);

}  // namespace tokamak::cuda
