#pragma once
// Made-up inputs that a model takes without tripping: for timing, and for measuring ranges when there is no data.

#include <cstdint>

#include "ir/graph.h"

namespace tokamak::quant {

// Contents for a graph input, deterministic in `seed` and the input's name. Floats are uniform in [-1, 1); masks are ones, positions count
// up, segments are zeros, and integers that index a table stay within it; other integers are ones.
Tensor sample_input(const ir::Value& input, const Shape& shape, uint64_t seed = 1);

}  // namespace tokamak::quant
