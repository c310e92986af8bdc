#pragma once
// Small things that kernels of the backend share.

#include <string>

#include "backends/cuda/cuda_backend.h"

namespace tokamak::cuda {

// The name of a dtype in device code (device/prelude.cuh), or "" when kernels have no such type.
std::string device_type(DType dtype);

// A source that includes one file of backends/cuda/device.
Source device_source(const std::string& name, const std::string& file, std::vector<std::string> defines);

// The types that activations have: f32, f16 and bf16.
bool is_activation(DType dtype);

// Whether elements can be moved as 1, 2, 4 or 8 bytes each.
bool is_movable(DType dtype);
inline int64_t bytes_of_element(DType dtype) { return bits_of(dtype) / 8; }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether a tactic timed at size `tuned` is still a good one at `size`.
inline bool is_near(int64_t tuned, int64_t size) { return tuned <= 4 * size && size <= 4 * tuned; }

}  // namespace tokamak::cuda
