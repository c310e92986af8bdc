// Products with FP8 weights for many rows, both operands FP8: rows of x (after a norm, where the node has one) are rounded to E4M3 with a
// scale a row, then cuBLASLt multiplies; a gate and what else follows run in one pass behind. Floor: 2 m n k operations at the FP8 rate (an
// H100 reaches 1,300 TFLOP/s), and one read of x and one write of y in 16 bits. Nodes allow it by the attribute activation="f8e4m3fn".

#include <algorithm>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue_pass.h"
#include "backends/cuda/kernels/fp8_rows.h"
#include "backends/cuda/kernels/linear.h"
#include "backends/cuda/kernels/lt_product.h"

namespace tokamak::cuda {
namespace {

constexpr int64_t kFewRows = 16;             // up to here a product only waits for its weights, and keeps 16 bits of x
constexpr size_t kScalesVersion = 12'09'00;  // of cuBLASLt: the first with scale vectors

int64_t aligned(int64_t bytes) { return ceil_div(bytes, kLtWorkspaceAlignment) * kLtWorkspaceAlignment; }

// How the library is used, in order of preference.
//   fused     scales and the epilogue inside
//   plain     scales inside, gate and epilogue in a pass behind
//   unscaled  sums in f32; scales, gate and epilogue in a pass behind
enum class Way { Fused, Plain, Unscaled };
constexpr const char* kWays[] = {"fused", "plain", "unscaled"};

std::optional<LtProblem> problem_of(const NodeView& node, const Linear& l, Way way) {
  LtProblem p{.m = l.m, .n = l.n, .k = l.k, .pitch = l.n, .operands = DType::F8E4M3FN, .output = l.y, .has_scales = true, .epilogue = {}};
  if (way == Way::Unscaled) {
    p.has_scales = false, p.output = DType::F32;
    return p;
  }
  if (find_cublas_lt()->cublasLtGetVersion() < kScalesVersion) return {};
  if (way == Way::Plain) return p;
  if (!l.gate.empty()) return {};
  const auto fused = fused_epilogue(node);
  if (!fused || (fused->bias >= 0 && l.y == DType::F32)) return {};  // of f32 outputs the library wants another type of bias
  p.epilogue = *fused;
  return p;
}

// The pass behind: reads sums of the product, writes y.
class Finish {
 public:
  Finish(const NodeView& node, const Linear& l, const LtProblem& problem, const std::string& name) : epilogue_(node), rows_(l.m) {
    std::vector<std::string> defines{"SUM=" + device_type(problem.output), "ELEMENT=" + device_type(l.y),
                                     fmt::format("COLS={}", l.columns()), fmt::format("SCALED={:d}", !problem.has_scales)};
    if (!l.gate.empty()) defines.push_back("GATE=" + l.gate);
    blocks_ = static_cast<unsigned>(ceil_div(l.m * (l.columns() / 8), 256));
    function_ = node.cuda->function({name + "_finish", epilogue_.code() + device_file("finish_product.cu"), defines}, "finish_product");
  }
  void run(const RunArgs& args, const void* sums, const void* row_scale) const {
    function_.launch(args.stream, {.grid = {blocks_}, .block = {256}, .overlap = true}, sums, row_scale, args.inputs[2].raw(),
                     args.outputs[0].raw(), rows_, epilogue_.pointers(args));
  }

 private:
  Epilogue epilogue_;
  Function function_;
  int64_t rows_;
  unsigned blocks_;
};

class Fp8Matmul final : public Kernel {
 public:
  Fp8Matmul(const NodeView& node, const Linear& l, LtProduct product, const LtProblem& problem, Way way, const std::string& name)
      : product_(std::move(product)), problem_(problem), rows_(node, l, 0, name) {
    if (way == Way::Unscaled || !l.gate.empty()) finish_.emplace(node, l, problem, name);
    else if (way == Way::Plain) pass_ = EpiloguePass(node, name);
    scales_at_ = aligned(l.m * l.k);
    sums_at_ = scales_at_ + aligned(l.m * 4);
    in_place_ = l.gate.empty() && problem.output == l.y;
    library_at_ = sums_at_ + (finish_ && !in_place_ ? aligned(l.m * l.n * bits_of(problem.output) / 8) : 0);
  }

  int64_t workspace_bytes() const override { return library_at_ + product_.workspace_bytes() + kLtWorkspaceAlignment; }
  void run(const RunArgs& args) const override {
    auto* const codes = static_cast<std::byte*>(lt_aligned(args.workspace));
    void *const scales = codes + scales_at_, *const sums = !finish_ || in_place_ ? args.outputs[0].raw() : codes + sums_at_;
    const auto input = [&](int i) -> const void* { return i < 0 ? nullptr : args.inputs[static_cast<size_t>(i)].raw(); };
    rows_.run(args, codes, scales);
    product_.run({.x = codes,
                  .w = input(1),
                  .x_scale = scales,
                  .w_scale = input(2),
                  .bias = input(problem_.epilogue.bias),
                  .residual = input(problem_.epilogue.residual),
                  .y = sums,
                  .workspace = codes + library_at_},
                 args.stream);
    if (finish_) finish_->run(args, sums, scales);
    pass_.run(args);
  }

 private:
  LtProduct product_;
  LtProblem problem_;
  Fp8Rows rows_;
  std::optional<Finish> finish_;
  EpiloguePass pass_;
  bool in_place_;                             // what finishes the sums finds them in y
  int64_t scales_at_, sums_at_, library_at_;  // in the workspace, behind the codes
};

class Fp8MatmulDef final : public CudaKernelDef {
 public:
  Fp8MatmulDef(const char* name, const char* op) : name_(name), op_(op) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }

  Support supports(const NodeView& node) const override {
    if (node.attrs().get_string("activation", "") != "f8e4m3fn") return Support::no("the activations may not be rounded to fp8");
    Linear l;
    if (const Support support = Linear::read(node, l); !support) return support;
    if (l.w != DType::F8E4M3FN) return Support::no(fmt::format("the weights are {}, not f8e4m3fn", to_string(l.w)));
    if (l.groups() != 1 || l.scale != DType::F32) return Support::no("the scales are not one f32 a row of the weights");
    if (l.m <= kFewRows) return Support::no(fmt::format("{} rows: up to {} keep their activations in 16 bits", l.m, kFewRows));
    if (l.n % 16 != 0 || l.k % 16 != 0) return Support::no(fmt::format("n is {} and k is {}, need multiples of 16", l.n, l.k));
    if (!Fp8Rows::fits(l)) return Support::no(fmt::format("k is {}: a row does not fit registers", l.k));
    if (node.cuda->target().arch < 89) return Support::no("the GPU does not multiply fp8");
    if (node.cuda->device() == nullptr) return Support::no("cuBLASLt picks its algorithm on the device, which is not here");
    if (find_cublas_lt() == nullptr) return Support::no(cublas_lt_problem());
    return candidates(node, l, 1).empty() ? Support::no("cuBLASLt has no algorithm for it") : Support::yes();
  }

  std::vector<std::string> tactics(const NodeView& node) const override {
    Linear l;
    CHECK(Linear::read(node, l));
    return candidates(node, l, l.m <= 512 ? 24 : 10);  // few rows: which tiles fill the GPU evenly is hard to foresee
  }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const LtTactic parsed = LtTactic::parse(tactic, name());
    if (node.cuda->device() == nullptr) fail(ErrorCode::Unsupported, "{} needs the device", name());
    if (find_cublas_lt() == nullptr) fail(ErrorCode::Unsupported, "{}: {}", name(), cublas_lt_problem());
    const auto* const known = std::find(std::begin(kWays), std::end(kWays), parsed.way);
    const auto way = static_cast<Way>(known - std::begin(kWays));
    Linear l;
    CHECK(Linear::read(node, l));
    const auto problem = known == std::end(kWays) ? std::nullopt : problem_of(node, l, way);
    if (!problem) fail(ErrorCode::Corrupt, "{} has no tactic \"{}\" for this product; rebuild the engine", name(), tactic);
    LtProduct product(node.cuda->device(), *problem);
    if (!product.choose(parsed))
      fail(ErrorCode::Unsupported, "this version of cuBLASLt has no algorithm for the product; rebuild the engine");
    return std::make_unique<Fp8Matmul>(node, l, std::move(product), *problem, way, name_);
  }

 private:
  // Of the first way that the library has algorithms for.
  static std::vector<std::string> candidates(const NodeView& node, const Linear& l, int most) {
    const size_t version = find_cublas_lt()->cublasLtGetVersion();
    for (const Way way : {Way::Fused, Way::Plain, Way::Unscaled}) {
      const auto problem = problem_of(node, l, way);
      if (!problem) continue;
      std::vector<std::string> tactics;
      for (const auto& result : LtProduct(node.cuda->device(), *problem).algorithms(most))
        tactics.push_back(LtTactic{kWays[static_cast<int>(way)], version, l.m, result.algo}.text());
      if (!tactics.empty()) return tactics;
    }
    return {};
  }
  std::string name_, op_;
};

}  // namespace

std::vector<const KernelDef*> fp8_matmul_kernels() {
  static const Fp8MatmulDef matmul("cublaslt.fp8_matmul", "quantized_matmul"), linear("cublaslt.fp8_linear", "linear");
  return {&matmul, &linear};
}

}  // namespace tokamak::cuda
