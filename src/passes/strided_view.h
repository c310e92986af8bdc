#pragma once
// A value as a window on another one: what reshape, transpose, slice, split and the choice of one index do without moving anything.

#include <vector>

#include "passes/match.h"

namespace tokamak::passes {

// Elements of `source` (dense, row-major), each times `scale`.
struct StridedView {
  struct Factor {
    Dim size, stride;  // stride in elements of the source
  };
  // An axis is a product of factors, the outermost first; none for size 1. One that is a single progression has at most one.
  using Axis = std::vector<Factor>;

  Value* source = nullptr;
  std::vector<Axis> axes;
  Dim offset = 0;
  double scale = 1;
};

// Follows producers within one graph as far as the window stays one; at least `v` itself with its dense strides. `v` must be ranked.
StridedView strided_view(Value* v);

}  // namespace tokamak::passes
