#pragma once
// What the kernels that cuBLASLt computes share: its algorithms as tactics, and the epilogues that it has.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backends/cuda/cublas_lt.h"
#include "runtime/kernel.h"

namespace tokamak::cuda {

constexpr int64_t kLtAlignment = 16;  // of operands, in bytes: tensors of the caller's are not aligned better
constexpr int64_t kLtWorkspaceAlignment = 256;
constexpr uint64_t kLtMostWorkspace = uint64_t{32} << 20;

inline cudaDataType_t lt_type(DType dtype) {
  return dtype == DType::F16 ? CUDA_R_16F : dtype == DType::BF16 ? CUDA_R_16BF : dtype == DType::F8E4M3FN ? CUDA_R_8F_E4M3 : CUDA_R_32F;
}

// The next address that is a multiple of kLtWorkspaceAlignment.
inline void* lt_aligned(const void* p) {
  constexpr uintptr_t kStep = kLtWorkspaceAlignment;
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(p) + kStep - 1) / kStep * kStep);
}

// An epilogue that the library has: i0, plus at most one row vector and at most one tensor like the output, then perhaps relu or gelu_tanh;
// nothing else. Without a value the node's is another.
struct FusedEpilogue {
  cublasLtEpilogue_t kind = CUBLASLT_EPILOGUE_DEFAULT;
  int bias = -1, residual = -1;  // inputs of the node
};
std::optional<FusedEpilogue> fused_epilogue(const NodeView& node);

// Bytes that every call's operands are aligned to; C and D are alike.
struct LtAlignment {
  uint32_t a = kLtAlignment, b = kLtAlignment, c = kLtAlignment;
};

// What the library's heuristic names for a product, its first choice first; none: it cannot do it. The device is current.
std::vector<cublasLtMatmulHeuristicResult_t> lt_algorithms(const CublasLt& lt, cublasLtHandle_t handle,
                                                           const cublasLtMatmulDescOpaque_t& desc, const cublasLtMatrixLayoutOpaque_t& a,
                                                           const cublasLtMatrixLayoutOpaque_t& b, const cublasLtMatrixLayoutOpaque_t& c,
                                                           const LtAlignment& alignment, int most);

// "fused,130200,128,0123...": how the kernel uses the library, its version, the rows that the algorithm was chosen for, the algorithm as
// the library serializes it.
struct LtTactic {
  std::string way;
  size_t version = 0;
  int64_t m = 0;
  cublasLtMatmulAlgo_t algo{};

  std::string text() const;
  // Throws Corrupt, naming the kernel.
  static LtTactic parse(const std::string& text, std::string_view kernel);
};

}  // namespace tokamak::cuda
