#include "backends/cuda/kernels/lt_product.h"

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {
namespace {

template <class T>
void set(const CublasLt& lt, cublasLtMatmulDescOpaque_t& desc, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(lt.cublasLtMatmulDescSetAttribute(&desc, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
}

}  // namespace

LtProduct::LtProduct(std::shared_ptr<Device> device, const LtProblem& problem)
    : lt_(*find_cublas_lt()), device_(std::move(device)), handle_(cublas_lt_handle(device_)), problem_(problem) {
  device_->make_current();
  check(lt_.cublasLtMatmulDescInit_internal(&desc_, sizeof(desc_), CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescInit");
  set(lt_, desc_, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  set(lt_, desc_, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  // Until run() knows them, pointers that are aligned as those will be: algorithms are judged with them.
  const void* const some = reinterpret_cast<const void*>(kLtAlignment);
  const FusedEpilogue& epilogue = problem.epilogue;
  if (epilogue.kind != CUBLASLT_EPILOGUE_DEFAULT) set(lt_, desc_, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue.kind);
  if (epilogue.bias >= 0) set(lt_, desc_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, some);
  if (problem.operands == DType::F8E4M3FN) {
    // Sums stay in the tensor cores' accumulators (about 14 bits) all along k; the rounding of x to 3 bits of mantissa outweighs it.
    set(lt_, desc_, CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
    if (problem.has_scales) {
      set(lt_, desc_, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, int32_t{CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F});
      set(lt_, desc_, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, int32_t{CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F});
      set(lt_, desc_, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, some);
      set(lt_, desc_, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, some);
    }
  }
  const auto layout = [&](cublasLtMatrixLayoutOpaque_t& out, DType dtype, int64_t rows, int64_t cols, int64_t pitch) {
    check(lt_.cublasLtMatrixLayoutInit_internal(&out, sizeof(out), lt_type(dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(cols),
                                                pitch),
          "cublasLtMatrixLayoutInit");
  };
  layout(a_, problem.operands, problem.k, problem.n, problem.k);
  layout(b_, problem.operands, problem.k, problem.m, problem.k);
  layout(c_, problem.output, problem.n, problem.m, problem.pitch);
}

std::vector<cublasLtMatmulHeuristicResult_t> LtProduct::algorithms(int most) const {
  device_->make_current();
  return lt_algorithms(lt_, handle_, desc_, a_, b_, c_, {}, most);
}

bool LtProduct::choose(const LtTactic& tactic) {
  device_->make_current();
  cublasLtMatmulHeuristicResult_t checked{};
  if (tactic.version == lt_.cublasLtGetVersion() && is_near(tactic.m, problem_.m) &&
      lt_.cublasLtMatmulAlgoCheck(handle_, &desc_, &a_, &b_, &c_, &c_, &tactic.algo, &checked) == CUBLAS_STATUS_SUCCESS &&
      checked.workspaceSize <= kLtMostWorkspace) {
    algo_ = tactic.algo;
    workspace_bytes_ = static_cast<int64_t>(checked.workspaceSize);
    return true;
  }
  const auto first = algorithms(1);
  if (first.empty()) return false;
  algo_ = first.front().algo;
  workspace_bytes_ = static_cast<int64_t>(first.front().workspaceSize);
  return true;
}

void LtProduct::run(const Pointers& p, CUstream stream) const {
  device_->make_current();
  cublasLtMatmulDescOpaque_t desc = desc_;  // several threads may run this, each with its pointers
  if (problem_.epilogue.bias >= 0) set(lt_, desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  if (problem_.has_scales) {
    set(lt_, desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.w_scale);
    set(lt_, desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.x_scale);
  }
  const bool has_residual = problem_.epilogue.residual >= 0;
  const float alpha = 1, beta = has_residual ? 1 : 0;
  // The library does not change layouts here; its types say otherwise.
  const auto layout = [](const cublasLtMatrixLayoutOpaque_t& l) { return const_cast<cublasLtMatrixLayout_t>(&l); };
  check(
      lt_.cublasLtMatmul(handle_, &desc, &alpha, p.w, layout(a_), p.x, layout(b_), &beta, has_residual ? p.residual : p.y, layout(c_), p.y,
                         layout(c_), &algo_, workspace_bytes_ == 0 ? nullptr : p.workspace, static_cast<size_t>(workspace_bytes_), stream),
      "cublasLtMatmul");
}

}  // namespace tokamak::cuda
