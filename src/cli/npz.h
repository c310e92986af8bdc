#pragma once
// NumPy files: .npy arrays (format versions 1 to 3) and .npz archives of them (zip, stored or deflated, zip64).

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/tensor.h"

namespace tokamak::cli {

// Throws Corrupt; Unsupported for object arrays and big-endian data. Fortran order is transposed to row-major. `<U` and `S` arrays give
// strings; two-byte void (`|V2`, what bfloat16 arrays are saved as) gives bf16.
Tensor read_npy(std::span<const std::byte> bytes, const std::string& where);

// Arrays in the archive's order, names without ".npy". Throws NotFound, Io, Corrupt, Unsupported.
std::vector<std::pair<std::string, Tensor>> read_npz(const std::string& path);

}  // namespace tokamak::cli
