#pragma once
// Triton's classification extension: the largest values of an output as text.

#include <string>
#include <vector>

#include "base/tensor.h"

namespace tokamak::server {

// BYTES [rows, k] (or [k] without rows): "value:index" or "value:index:label" of the k largest elements, largest first, lower index first
// among equals; k is at most what a row has. `labels` may be shorter than a row. Throws InvalidArgument for strings and 16-bit floats.
Tensor classify(const Tensor& output, int k, bool has_rows, const std::vector<std::string>& labels);

}  // namespace tokamak::server
