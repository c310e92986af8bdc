// matmul through cuBLASLt. Its heuristic's algorithms are the tactics, so they exist only where the device is. Epilogues that are exactly
// one of the library's (bias, relu, gelu by tanh, a residual through beta C) run inside it, others in a pass behind it.
// Row-major C = A B is column-major C^T = B^T A^T: the library's A is our b, its rows are our columns.

#include <algorithm>
#include <numeric>
#include <optional>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue_pass.h"
#include "backends/cuda/kernels/lt_algorithm.h"
#include "backends/cuda/kernels/product.h"

namespace tokamak::cuda {
namespace {

constexpr int kMostCalls = 32;

// Algorithms to time. Up to some hundred rows the tiles do not fill the GPU evenly, and the heuristic's order says little.
int most_algorithms(const NodeView& node) {
  Product p(node);
  p.flatten();
  return p.m > 64 && p.m <= 512 ? 24 : 10;
}

// A product as the library is told it.
struct Call {
  cublasLtMatmulDescOpaque_t desc;
  cublasLtMatrixLayoutOpaque_t a, b, c;  // the library's A and B; C and D are alike
  Product product;
  FusedEpilogue fused;
  int64_t element_bytes;
  // Batch dimensions: the last is the library's, the others are walked by several calls.
  std::vector<int64_t> a_offsets, b_offsets, c_offsets;  // elements, one a call

  Call(const CublasLt& lt, const NodeView& node, const FusedEpilogue& epilogue) : product(node), fused(epilogue) {
    Product& p = product;
    p.flatten();
    const DType dtype = node.input_dtypes[0];
    const cudaDataType_t type = lt_type(dtype);
    element_bytes = bits_of(dtype) / 8;
    const bool tf32 = dtype == DType::F32 && node.cuda->allow_tf32();
    check(lt.cublasLtMatmulDescInit_internal(&desc, sizeof(desc), tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "cublasLtMatmulDescInit");
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      check(lt.cublasLtMatmulDescSetAttribute(&desc, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (fused.kind != CUBLASLT_EPILOGUE_DEFAULT) set(CUBLASLT_MATMUL_DESC_EPILOGUE, fused.kind);
    // Until run() knows the bias, something as aligned as it will be, so that algorithms are judged with it.
    if (fused.bias >= 0) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, reinterpret_cast<const void*>(kLtAlignment));
    const auto layout = [&](cublasLtMatrixLayoutOpaque_t& out, int64_t rows, int64_t cols) {  // column-major, dense
      check(lt.cublasLtMatrixLayoutInit_internal(&out, sizeof(out), type, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), rows),
            "cublasLtMatrixLayoutInit");
    };
    layout(a, p.trans_b ? p.k : p.n, p.trans_b ? p.n : p.k);
    layout(b, p.trans_a ? p.m : p.k, p.trans_a ? p.k : p.m);
    layout(c, p.n, p.m);
    int64_t inner = 1, a_step = 0, b_step = 0;
    if (!p.batch.empty()) inner = p.batch.back(), a_step = p.b_batch.back(), b_step = p.a_batch.back();
    const auto batched = [&](cublasLtMatrixLayoutOpaque_t& out, int64_t step) {
      const auto count = static_cast<int32_t>(inner);
      check(lt.cublasLtMatrixLayoutSetAttribute(&out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)), "batch count");
      check(lt.cublasLtMatrixLayoutSetAttribute(&out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof(step)), "batch stride");
    };
    if (inner > 1) batched(a, a_step), batched(b, b_step), batched(c, p.m * p.n);
    const int64_t calls = num_calls(p);
    for (int64_t i = 0; i < calls; ++i) {
      int64_t rest = i, a_at = 0, b_at = 0;
      for (size_t d = p.batch.size(); d-- > 1;) {
        const int64_t at = rest % p.batch[d - 1];
        rest /= p.batch[d - 1];
        a_at += at * p.b_batch[d - 1], b_at += at * p.a_batch[d - 1];
      }
      a_offsets.push_back(a_at), b_offsets.push_back(b_at), c_offsets.push_back(i * inner * p.m * p.n);
    }
  }

  static int64_t num_calls(const Product& p) {
    return p.batch.empty() ? 1 : num_elements(std::span(p.batch).subspan(0, p.batch.size() - 1));
  }

  // Every call's operands are as aligned as this.
  uint32_t alignment(const std::vector<int64_t>& offsets) const {
    int64_t bytes = kLtAlignment;
    for (const int64_t offset : offsets) bytes = std::gcd(bytes, offset * element_bytes);
    return static_cast<uint32_t>(bytes);
  }

  std::vector<cublasLtMatmulHeuristicResult_t> algorithms(const CublasLt& lt, cublasLtHandle_t handle, int most) const {
    const LtAlignment alignments{alignment(a_offsets), alignment(b_offsets), alignment(c_offsets)};
    return lt_algorithms(lt, handle, desc, a, b, c, alignments, most);
  }
};

class LtMatmul final : public Kernel {
 public:
  LtMatmul(const NodeView& node, const CublasLt& lt, cublasLtHandle_t handle, Call call, const cublasLtMatmulHeuristicResult_t& algorithm,
           bool fused)
      : lt_(lt),
        device_(node.cuda->device()),
        handle_(handle),
        call_(std::move(call)),
        algo_(algorithm.algo),
        workspace_bytes_(static_cast<int64_t>(algorithm.workspaceSize)),
        alpha_(static_cast<float>(node.attrs().get_float("alpha", 1))),
        pass_(fused ? EpiloguePass() : EpiloguePass(node, "cublaslt.matmul")) {}

  int64_t workspace_bytes() const override { return workspace_bytes_ == 0 ? 0 : workspace_bytes_ + kLtWorkspaceAlignment; }
  void run(const RunArgs& args) const override {
    device_->make_current();
    cublasLtMatmulDescOpaque_t desc = call_.desc;  // several threads may run this kernel, each with its bias
    if (call_.fused.bias >= 0) {
      const void* bias = args.inputs[static_cast<size_t>(call_.fused.bias)].raw();
      check(lt_.cublasLtMatmulDescSetAttribute(&desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(bias)), "bias of cublasLtMatmul");
    }
    const float beta = call_.fused.residual >= 0 ? 1 : 0;
    auto* const out = static_cast<char*>(args.outputs[0].raw());
    const char* const residual = beta != 0 ? static_cast<const char*>(args.inputs[static_cast<size_t>(call_.fused.residual)].raw()) : out;
    void* const workspace = lt_aligned(args.workspace);
    const auto at = [&](const void* base, int64_t elements) { return static_cast<const char*>(base) + elements * call_.element_bytes; };
    for (size_t i = 0; i < call_.c_offsets.size(); ++i)
      check(
          lt_.cublasLtMatmul(handle_, &desc, &alpha_, at(args.inputs[1].raw(), call_.a_offsets[i]), mutable_layout(call_.a),
                             at(args.inputs[0].raw(), call_.b_offsets[i]), mutable_layout(call_.b), &beta, at(residual, call_.c_offsets[i]),
                             mutable_layout(call_.c), out + call_.c_offsets[i] * call_.element_bytes, mutable_layout(call_.c), &algo_,
                             workspace_bytes_ == 0 ? nullptr : workspace, static_cast<size_t>(workspace_bytes_), args.stream),
          "cublasLtMatmul");
    pass_.run(args);
  }

 private:
  // The library's handles are pointers to structures that it does not change here.
  static cublasLtMatrixLayout_t mutable_layout(const cublasLtMatrixLayoutOpaque_t& layout) {
    return const_cast<cublasLtMatrixLayout_t>(&layout);
  }
  const CublasLt& lt_;
  std::shared_ptr<Device> device_;
  cublasLtHandle_t handle_;
  Call call_;
  cublasLtMatmulAlgo_t algo_;
  int64_t workspace_bytes_;
  float alpha_;
  EpiloguePass pass_;
};

class LtMatmulDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cublaslt.matmul"; }
  std::string_view op() const override { return "matmul"; }
  Support supports(const NodeView& node) const override {
    const DType dtype = node.input_dtypes[0];
    if (dtype != DType::F32 && dtype != DType::F16 && dtype != DType::BF16) return Support::no("a must be f32, f16 or bf16");
    if (node.input_dtypes[1] != dtype || node.output_dtypes[0] != dtype) return Support::no("a, b and the output differ in type");
    Product p(node);
    if (p.row || p.column) return Support::no("a vector operand");
    if (p.k == 0) return Support::no("k is 0");
    p.flatten();
    if (std::max({p.m, p.n, p.k}) > INT32_MAX || (!p.batch.empty() && p.batch.back() > INT32_MAX))
      return Support::no("a size is over 2^31");
    if (Call::num_calls(p) > kMostCalls)
      return Support::no(fmt::format("its batches take {} calls, at most {}", Call::num_calls(p), kMostCalls));
    if (const Support support = Epilogue::supports(node); !support) return support;
    if (node.cuda->device() == nullptr) return Support::no("cuBLASLt picks its algorithm on the device, which is not here");
    if (find_cublas_lt() == nullptr) return Support::no(cublas_lt_problem());
    if (candidates(node, 1).empty()) return Support::no("cuBLASLt has no algorithm for it");
    return Support::yes();
  }
  std::vector<std::string> tactics(const NodeView& node) const override { return candidates(node, most_algorithms(node)); }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const LtTactic parsed = LtTactic::parse(tactic, name());
    const bool inside = parsed.way == "fused";
    if (!inside && parsed.way != "plain") fail(ErrorCode::Corrupt, "{} has no tactic \"{}\"; rebuild the engine", name(), tactic);
    if (node.cuda->device() == nullptr) fail(ErrorCode::Unsupported, "cublaslt.matmul needs the device");
    if (find_cublas_lt() == nullptr) fail(ErrorCode::Unsupported, "cublaslt.matmul: {}", cublas_lt_problem());
    const CublasLt& lt = *find_cublas_lt();
    const std::optional<FusedEpilogue> fused = inside ? fused_epilogue(node) : FusedEpilogue();
    if (!fused) fail(ErrorCode::Corrupt, "cublaslt.matmul: the epilogue is none of cuBLASLt's; rebuild the engine");
    const cublasLtHandle_t handle = cublas_lt_handle(node.cuda->device());
    node.cuda->device()->make_current();
    Call call(lt, node, *fused);
    cublasLtMatmulHeuristicResult_t algorithm{};
    const bool taken = parsed.version == lt.cublasLtGetVersion() && is_near(parsed.m, call.product.m) &&
                       lt.cublasLtMatmulAlgoCheck(handle, &call.desc, &call.a, &call.b, &call.c, &call.c, &parsed.algo, &algorithm) ==
                           CUBLAS_STATUS_SUCCESS &&
                       algorithm.workspaceSize <= kLtMostWorkspace;
    if (taken) {
      algorithm.algo = parsed.algo;
    } else {  // chosen by another version, or for another size than the plan's: the library's own first choice
      const auto algorithms = call.algorithms(lt, handle, 1);
      if (algorithms.empty()) fail(ErrorCode::Unsupported, "this version of cuBLASLt has no algorithm for the product; rebuild the engine");
      algorithm = algorithms.front();
    }
    return std::make_unique<LtMatmul>(node, lt, handle, std::move(call), algorithm, inside);
  }

 private:
  // As tactics: with the epilogue inside where the library has it, else behind.
  static std::vector<std::string> candidates(const NodeView& node, int most) {
    const CublasLt& lt = *find_cublas_lt();
    const cublasLtHandle_t handle = cublas_lt_handle(node.cuda->device());
    node.cuda->device()->make_current();
    std::vector<std::string> tactics;
    const auto append = [&](const FusedEpilogue& epilogue, bool fused, int count) {
      Call call(lt, node, epilogue);
      for (const auto& result : call.algorithms(lt, handle, count))
        tactics.push_back(LtTactic{fused ? "fused" : "plain", lt.cublasLtGetVersion(), call.product.m, result.algo}.text());
    };
    if (const auto fused = fused_epilogue(node)) append(*fused, true, most);
    if (tactics.empty()) append({}, false, most);
    return tactics;
  }
};

}  // namespace

std::vector<const KernelDef*> cublaslt_kernels() {
  static const LtMatmulDef matmul;
  return {&matmul};
}

}  // namespace tokamak::cuda
