#pragma once
// Libraries of the CUDA toolkit, opened at run time.

#include <string>
#include <vector>

namespace tokamak::cuda {

// Opens the first of `names` ("libcublasLt.so.13") that is in a folder of the environment variable TOKAMAK_CUDA_LIBRARY_PATH (separated
// by ':'), else where the loader looks, else in /usr/local/cuda/lib64. Null when there is none. Never closed.
void* open_library(const std::vector<std::string>& names);

}  // namespace tokamak::cuda
