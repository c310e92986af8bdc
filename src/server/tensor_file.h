#pragma once
// Tensors in files that a config names.

#include <string>

#include "base/tensor.h"

namespace tokamak::server {

// The first bytes of the file at `path` as a tensor: row-major as on this machine, BYTES as KServe's, each after its 32-bit length. Throws
// InvalidArgument, naming `what` ("warm-up data"), when there are too few; NotFound for a file that is not there.
Tensor read_tensor_file(DType dtype, Shape shape, const std::string& path, const char* what);

}  // namespace tokamak::server
