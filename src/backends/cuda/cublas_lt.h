#pragma once
// cuBLASLt, found at run time.

#include <cublasLt.h>

#include <memory>
#include <string>

#include "backends/cuda/device.h"

namespace tokamak::cuda {

// One pointer a function, named as in <cublasLt.h>.
struct CublasLt {
#define TOKAMAK_CUBLASLT_FUNCTIONS(F)  \
  F(cublasLtCreate)                    \
  F(cublasLtGetVersion)                \
  F(cublasLtGetStatusString)           \
  F(cublasLtMatmul)                    \
  F(cublasLtMatmulAlgoCheck)           \
  F(cublasLtMatmulAlgoGetHeuristic)    \
  F(cublasLtMatmulDescInit_internal)   \
  F(cublasLtMatmulDescSetAttribute)    \
  F(cublasLtMatrixLayoutInit_internal) \
  F(cublasLtMatrixLayoutSetAttribute)  \
  F(cublasLtMatmulPreferenceInit_internal) F(cublasLtMatmulPreferenceSetAttribute)
#define TOKAMAK_DECLARE(name) decltype(&::name) name = nullptr;
  TOKAMAK_CUBLASLT_FUNCTIONS(TOKAMAK_DECLARE)
#undef TOKAMAK_DECLARE
};

// Null when it is not installed; cublas_lt_problem() then says so, for messages.
const CublasLt* find_cublas_lt();
const std::string& cublas_lt_problem();

// Throws Internal: "<what>: CUBLAS_STATUS_...". Needs the library.
void check(cublasStatus_t status, const char* what);

// The library's handle for a device; one a process and device, kept until the process ends. Thread-safe, as is its use.
cublasLtHandle_t cublas_lt_handle(const std::shared_ptr<Device>& device);

}  // namespace tokamak::cuda
