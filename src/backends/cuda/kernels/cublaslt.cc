// matmul through cuBLASLt. Its heuristic's algorithms are the tactics, so they exist only where the device is. Epilogues that are exactly
// one of the library's (bias, relu, gelu by tanh, a residual through beta C) run inside it, others in a pass behind it.
// Row-major C = A B is column-major C^T = B^T A^T: the library's A is our b, its rows are our columns.

#include <charconv>
#include <cstring>
#include <numeric>
#include <optional>

#include "backends/cuda/cublas_lt.h"
#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue_pass.h"
#include "backends/cuda/kernels/product.h"

namespace tokamak::cuda {
namespace {

constexpr int kMostAlgorithms = 10, kMostCalls = 32;
constexpr uint64_t kMostWorkspace = uint64_t{32} << 20;
constexpr int64_t kAlignment = 16;  // of operands, in bytes: tensors of the caller's are not aligned better
constexpr int64_t kWorkspaceAlignment = 256;

// An epilogue that the library has.
struct FusedEpilogue {
  cublasLtEpilogue_t kind = CUBLASLT_EPILOGUE_DEFAULT;
  int bias = -1, residual = -1;  // inputs of the node
};

// i0, plus at most one row vector and at most one tensor like the output, then perhaps an activation; nothing else.
std::optional<FusedEpilogue> fused_epilogue(const NodeView& node) {
  const Epilogue epilogue(node);
  FusedEpilogue fused;
  if (epilogue.empty()) return fused;
  const ir::Expr& expr = epilogue.expr();
  using Operand = ir::ExprOperand;
  Operand current{Operand::Input, 0, 0};
  bool relu = false, gelu = false;
  for (size_t t = 0; t < expr.code.size(); ++t) {
    const ir::ExprInstruction& instruction = expr.code[t];
    if (relu || gelu) return {};
    if (instruction.function == "add") {
      const auto& [left, right] = std::tie(instruction.operands[0], instruction.operands[1]);
      const Operand& other = left == current ? right : left;
      if (!(left == current || right == current) || other.kind != Operand::Input || other.index == 0) return {};
      const Epilogue::Input& input = epilogue.inputs()[static_cast<size_t>(other.index) - 1];
      if (input.dtype != node.output_dtypes[0]) return {};
      if (epilogue.is_row_vector(input) && fused.bias < 0) fused.bias = input.index;
      else if (epilogue.is_full(input) && fused.residual < 0) fused.residual = input.index;
      else return {};
    } else if (instruction.operands[0] == current && instruction.function == "relu") {
      relu = true;
    } else if (instruction.operands[0] == current && instruction.function == "gelu_tanh") {
      gelu = true;
    } else {
      return {};
    }
    current = {Operand::Temp, static_cast<int>(t), 0};
  }
  if (!(expr.results[0] == current)) return {};
  const bool bias = fused.bias >= 0;
  if (relu) fused.kind = bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
  else if (gelu) fused.kind = bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
  else if (bias) fused.kind = CUBLASLT_EPILOGUE_BIAS;
  return fused;
}

cudaDataType_t data_type(DType dtype) { return dtype == DType::F16 ? CUDA_R_16F : dtype == DType::BF16 ? CUDA_R_16BF : CUDA_R_32F; }

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
    const cudaDataType_t type = data_type(dtype);
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
    if (fused.bias >= 0) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, reinterpret_cast<const void*>(kAlignment));
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
    int64_t bytes = kAlignment;
    for (const int64_t offset : offsets) bytes = std::gcd(bytes, offset * element_bytes);
    return static_cast<uint32_t>(bytes);
  }

  std::vector<cublasLtMatmulHeuristicResult_t> algorithms(const CublasLt& lt, cublasLtHandle_t handle, int most) {
    cublasLtMatmulPreferenceOpaque_t preference;
    check(lt.cublasLtMatmulPreferenceInit_internal(&preference, sizeof(preference)), "cublasLtMatmulPreferenceInit");
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(lt.cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)), "cublasLtMatmulPreferenceSetAttribute");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
    // Sums of a split k are added in float, not in the output's type.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_INPLACE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(a_offsets));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(b_offsets));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(c_offsets));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(c_offsets));
    std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(most));
    int count = 0;
    const cublasStatus_t status =
        lt.cublasLtMatmulAlgoGetHeuristic(handle, &desc, &a, &b, &c, &c, &preference, most, results.data(), &count);
    if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "cublasLtMatmulAlgoGetHeuristic");
    results.resize(status == CUBLAS_STATUS_SUCCESS ? static_cast<size_t>(count) : 0);
    std::erase_if(results, [](const auto& r) { return r.state != CUBLAS_STATUS_SUCCESS; });
    return results;
  }
};

// "fused,130200,128,0123...": epilogue inside or behind, the library's version, the rows of a that it was chosen for, the algorithm as the
// library serializes it.
std::string tactic_of(bool fused, size_t version, int64_t m, const cublasLtMatmulAlgo_t& algo) {
  std::string text = fmt::format("{},{},{},", fused ? "fused" : "plain", version, m);
  for (const uint64_t word : algo.data) text += fmt::format("{:016x}", word);
  return text;
}

struct ParsedTactic {
  bool fused = false;
  size_t version = 0;
  int64_t m = 0;
  cublasLtMatmulAlgo_t algo{};
};

ParsedTactic parse_tactic(const std::string& text) {
  ParsedTactic parsed;
  const char *at = text.data(), *end = at + text.size();
  bool good = text.size() > 6 && (text.starts_with("fused,") || text.starts_with("plain,"));
  parsed.fused = text.starts_with("fused,");
  if (good) {
    const char* stop = at + 6;
    const auto number = [&](auto& value) {
      const auto [next, status] = std::from_chars(stop, end, value);
      good = good && status == std::errc() && next != end && *next == ',';
      stop = good ? next + 1 : end;
    };
    number(parsed.version);
    number(parsed.m);
    good = good && end - stop == 16 * 8;
    for (int i = 0; good && i < 8; ++i) {
      const char* word = stop + i * 16;
      const auto [word_end, word_status] = std::from_chars(word, word + 16, parsed.algo.data[i], 16);
      good = word_status == std::errc() && word_end == word + 16;
    }
  }
  if (!good) fail(ErrorCode::Corrupt, "cublaslt.matmul has no tactic \"{}\"; rebuild the engine", text);
  return parsed;
}

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

  int64_t workspace_bytes() const override { return workspace_bytes_ == 0 ? 0 : workspace_bytes_ + kWorkspaceAlignment; }
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
    const auto address = reinterpret_cast<uintptr_t>(args.workspace);
    void* const workspace = reinterpret_cast<void*>((address + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment);
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
  std::vector<std::string> tactics(const NodeView& node) const override { return candidates(node, kMostAlgorithms); }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const ParsedTactic parsed = parse_tactic(tactic);
    if (node.cuda->device() == nullptr) fail(ErrorCode::Unsupported, "cublaslt.matmul needs the device");
    if (find_cublas_lt() == nullptr) fail(ErrorCode::Unsupported, "cublaslt.matmul: {}", cublas_lt_problem());
    const CublasLt& lt = *find_cublas_lt();
    const std::optional<FusedEpilogue> fused = parsed.fused ? fused_epilogue(node) : FusedEpilogue();
    if (!fused) fail(ErrorCode::Corrupt, "cublaslt.matmul: the epilogue is none of cuBLASLt's; rebuild the engine");
    const cublasLtHandle_t handle = cublas_lt_handle(node.cuda->device());
    node.cuda->device()->make_current();
    Call call(lt, node, *fused);
    cublasLtMatmulHeuristicResult_t algorithm{};
    const bool taken = parsed.version == lt.cublasLtGetVersion() && is_near(parsed.m, call.product.m) &&
                       lt.cublasLtMatmulAlgoCheck(handle, &call.desc, &call.a, &call.b, &call.c, &call.c, &parsed.algo, &algorithm) ==
                           CUBLAS_STATUS_SUCCESS &&
                       algorithm.workspaceSize <= kMostWorkspace;
    if (taken) {
      algorithm.algo = parsed.algo;
    } else {  // chosen by another version, or for another size than the plan's: the library's own first choice
      const auto algorithms = call.algorithms(lt, handle, 1);
      if (algorithms.empty()) fail(ErrorCode::Unsupported, "this version of cuBLASLt has no algorithm for the product; rebuild the engine");
      algorithm = algorithms.front();
    }
    return std::make_unique<LtMatmul>(node, lt, handle, std::move(call), algorithm, parsed.fused);
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
        tactics.push_back(tactic_of(fused, lt.cublasLtGetVersion(), call.product.m, result.algo));
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
