#pragma once
// Indices that a tensor holds. One outside its axis, which the CPU reports, cannot be reported from the GPU: it is brought to the nearest
// element, so that nothing outside the tensors is touched.

#include "backends/cuda/kernels/indexed.h"

namespace tokamak::cuda {

// Device code: int64_t bounded(int64_t index, int64_t bound).
inline constexpr const char* kBoundedIndex = R"(
DEVICE int64_t bounded(int64_t index, int64_t bound) {
  if (index < 0) index += bound;
  return index < 0 ? 0 : index >= bound ? bound - 1 : index;
}
)";

// "bounded(in1[t * 3 + 0], 7) * 12 + ...": where tuple t of the indices points, for axes `first`... of `shape`.
inline std::string tuple_offset(const Shape& shape, int64_t first, int64_t depth, const std::string& tuple) {
  const std::vector<int64_t> strides = strides_of(shape);
  std::string text = "Index(0)";
  for (int64_t d = 0; d < depth; ++d)
    text += fmt::format(" + Index(bounded(in1[({}) * {} + {}], {})) * Index({})", tuple, depth, d, shape[first + d], strides[first + d]);
  return text;
}

}  // namespace tokamak::cuda
