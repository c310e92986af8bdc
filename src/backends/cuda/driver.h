#pragma once
// The CUDA driver, found at run time: the binary starts on machines without it.

#include <cuda.h>

#include <string>

namespace tokamak::cuda {

// One pointer a driver function, named as in <cuda.h>.
struct Driver {
#define TOKAMAK_CUDA_FUNCTION(name) decltype(&::name) name = nullptr;
#include "backends/cuda/driver_functions.inc"
#undef TOKAMAK_CUDA_FUNCTION
};

// Null when there is no driver, no GPU, or a driver older than CUDA 12; driver_problem() then says which, for error messages.
const Driver* find_driver();
const std::string& driver_problem();

// The same; throws Unsupported with driver_problem().
const Driver& driver();

// Throws ResourceExhausted (out of memory) or Internal when `result` is an error: "<what>: CUDA_ERROR_... (text)".
void check(CUresult result, const char* what);

}  // namespace tokamak::cuda
