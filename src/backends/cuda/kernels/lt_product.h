#pragma once
// One call of cuBLASLt for y[m, n] = x[m, k] w[n, k]^T, the products of linear layers.

#include "backends/cuda/device.h"
#include "backends/cuda/kernels/lt_algorithm.h"

namespace tokamak::cuda {

// x and w are dense, row-major, of one type: f16, bf16, f32, or f8e4m3fn (sm_90; k and n multiples of 16).
struct LtProblem {
  int64_t m = 0, n = 0, k = 0;
  int64_t pitch = 0;  // elements from row to row of y, and of the residual
  DType operands = DType::F16, output = DType::F16;
  bool has_scales = false;  // f8e4m3fn: each sum is multiplied by x_scale[row] w_scale[column], f32 vectors
  FusedEpilogue epilogue;
};

class LtProduct {
 public:
  // Of a device that is here; the library is found.
  LtProduct(std::shared_ptr<Device> device, const LtProblem& problem);

  std::vector<cublasLtMatmulHeuristicResult_t> algorithms(int most) const;
  // Takes the tactic's algorithm; one of another version of the library, of another size, or of another problem gives way to the
  // heuristic's first. False: the library has none.
  bool choose(const LtTactic& tactic);
  int64_t workspace_bytes() const { return workspace_bytes_; }

  struct Pointers {
    const void *x = nullptr, *w = nullptr;
    const void *x_scale = nullptr, *w_scale = nullptr;  // with has_scales
    const void *bias = nullptr, *residual = nullptr;    // where the epilogue has them
    void* y = nullptr;
    void* workspace = nullptr;  // aligned to kLtWorkspaceAlignment
  };
  void run(const Pointers& p, CUstream stream) const;

 private:
  const CublasLt& lt_;
  std::shared_ptr<Device> device_;
  cublasLtHandle_t handle_;
  LtProblem problem_;
  cublasLtMatmulDescOpaque_t desc_;
  cublasLtMatrixLayoutOpaque_t a_, b_, c_;  // the library's A is w, its B is x: column-major, C^T = w x^T
  cublasLtMatmulAlgo_t algo_{};
  int64_t workspace_bytes_ = 0;
};

}  // namespace tokamak::cuda
