// Products with quantized weights for many rows, in 16 bits: a slice of the weights' rows is dequantized into memory that stays in the L2
// cache, cuBLASLt multiplies by it, then comes the next slice. Floor: 2 m n k operations at the 16-bit rate, and two passes of the 16-bit
// weights through the L2 cache.

#include <algorithm>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue_pass.h"
#include "backends/cuda/kernels/linear.h"
#include "backends/cuda/kernels/lt_product.h"

namespace tokamak::cuda {
namespace {

constexpr int64_t kFewRows = 64;  // kernels that dequantize in registers are better up to here
constexpr int kMostAlgorithms = 5;
constexpr int64_t kRowStep = 256;  // slices are multiples of it: whole tiles

// "fused32": the epilogue inside or ("plain") behind, slices of at most so many MiB in 16 bits.
struct Way {
  bool fused = true;
  int mib = 32;

  std::string text() const { return fmt::format("{}{}", fused ? "fused" : "plain", mib); }
  static std::optional<Way> parse(const std::string& text) {
    for (const bool fused : {true, false})
      for (const int mib : {32, 16})
        if (const Way way{fused, mib}; way.text() == text) return way;
    return {};
  }
};

// Rows of w a slice; the last may have fewer.
int64_t slice_rows(const Linear& l, int mib) {
  const int64_t most = std::max((int64_t{mib} << 20) / (2 * l.k) / kRowStep * kRowStep, kRowStep), count = ceil_div(l.n, most);
  return std::min(ceil_div(ceil_div(l.n, count), kRowStep) * kRowStep, l.n);
}

std::optional<LtProblem> problem_of(const NodeView& node, const Linear& l, bool fused, int64_t rows) {
  LtProblem p{.m = l.m, .n = rows, .k = l.k, .pitch = l.n, .operands = l.x, .output = l.y, .epilogue = {}};
  if (!fused) return p;
  const auto epilogue = fused_epilogue(node);
  if (!epilogue) return {};
  p.epilogue = *epilogue;
  return p;
}

class DequantizedMatmul final : public Kernel {
 public:
  DequantizedMatmul(const NodeView& node, const Linear& l, std::vector<LtProduct> products, const FusedEpilogue& epilogue, bool fused,
                    int64_t rows)
      : products_(std::move(products)), epilogue_(epilogue), l_(l), rows_(rows) {
    const std::string name = "cublaslt.dequantized_matmul";
    const std::string weight = l.w == DType::I4 ? "i4" : l.w == DType::F8E4M3FN ? "f8e4m3" : device_type(l.w);
    dequantize_ =
        node.cuda->function(device_source(name, "dequantize_rows.cu",
                                          {"ELEMENT=" + device_type(l.x), "WEIGHT=" + weight, "SCALE_ELEMENT=" + device_type(l.scale),
                                           fmt::format("K_SIZE={}", l.k), fmt::format("GROUP={}", l.group)}),
                            "dequantize_rows");
    if (!fused) pass_ = EpiloguePass(node, name);
    library_at_ = ceil_div(rows * l.k * 2, kLtWorkspaceAlignment) * kLtWorkspaceAlignment;
  }

  int64_t workspace_bytes() const override {
    int64_t most = 0;
    for (const LtProduct& p : products_) most = std::max(most, p.workspace_bytes());
    return library_at_ + most + kLtWorkspaceAlignment;
  }
  void run(const RunArgs& args) const override {
    auto* const slice = static_cast<std::byte*>(lt_aligned(args.workspace));
    const auto at = [&](int input, int64_t bytes) -> const std::byte* {
      return input < 0 ? nullptr : static_cast<const std::byte*>(args.inputs[static_cast<size_t>(input)].raw()) + bytes;
    };
    const int64_t y_bytes = bits_of(l_.y) / 8, scale_bytes = bits_of(l_.scale) / 8;
    for (int64_t first = 0; first < l_.n; first += rows_) {
      const int64_t rows = std::min(rows_, l_.n - first);
      dequantize_.launch(args.stream, {.grid = {static_cast<unsigned>(ceil_div(rows * (l_.k / 16), 256))}, .block = {256}, .overlap = true},
                         at(1, first * l_.row_bits() / 8), at(2, first * l_.groups() * scale_bytes), slice, static_cast<int>(rows));
      (rows == rows_ ? products_.front() : products_.back())
          .run({.x = args.inputs[0].raw(),
                .w = slice,
                .bias = at(epilogue_.bias, first * y_bytes),
                .residual = at(epilogue_.residual, first * y_bytes),
                .y = static_cast<std::byte*>(args.outputs[0].raw()) + first * y_bytes,
                .workspace = slice + library_at_},
               args.stream);
    }
    pass_.run(args);
  }

 private:
  std::vector<LtProduct> products_;  // of a slice; of the last, where it has fewer rows
  FusedEpilogue epilogue_;
  Linear l_;
  int64_t rows_, library_at_;
  Function dequantize_;
  EpiloguePass pass_;
};

class DequantizedMatmulDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cublaslt.dequantized_matmul"; }
  std::string_view op() const override { return "quantized_matmul"; }

  Support supports(const NodeView& node) const override {
    Linear l;
    if (const Support support = Linear::read(node, l); !support) return support;
    if (l.x != DType::F16 && l.x != DType::BF16) return Support::no(fmt::format("a is {}, needs f16 or bf16", to_string(l.x)));
    if (l.y != l.x) return Support::no("a and the output differ in type");
    if (l.m <= kFewRows) return Support::no(fmt::format("{} rows: other kernels read quantized weights once", l.m));
    if (l.k % 16 != 0 || (l.groups() > 1 && l.group % 16 != 0))
      return Support::no(fmt::format("k is {} in groups of {}, need multiples of 16", l.k, l.group));
    if (node.cuda->device() == nullptr) return Support::no("cuBLASLt picks its algorithm on the device, which is not here");
    if (find_cublas_lt() == nullptr) return Support::no(cublas_lt_problem());
    if (candidates(node, l, 1).empty()) return Support::no("cuBLASLt has no algorithm for it");
    return Support::yes();
  }

  std::vector<std::string> tactics(const NodeView& node) const override {
    Linear l;
    CHECK(Linear::read(node, l));
    return candidates(node, l, kMostAlgorithms);
  }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const LtTactic parsed = LtTactic::parse(tactic, name());
    if (node.cuda->device() == nullptr) fail(ErrorCode::Unsupported, "{} needs the device", name());
    if (find_cublas_lt() == nullptr) fail(ErrorCode::Unsupported, "{}: {}", name(), cublas_lt_problem());
    const auto way = Way::parse(parsed.way);
    Linear l;
    CHECK(Linear::read(node, l));
    const int64_t rows = slice_rows(l, way ? way->mib : 32);
    std::vector<LtProduct> products;
    FusedEpilogue epilogue;
    for (const int64_t n : {rows, l.n % rows}) {
      if (n == 0) continue;
      const auto problem = way ? problem_of(node, l, way->fused, n) : std::nullopt;
      if (!problem) fail(ErrorCode::Corrupt, "{} has no tactic \"{}\" for this product; rebuild the engine", name(), tactic);
      epilogue = problem->epilogue;
      products.emplace_back(node.cuda->device(), *problem);
      if (!products.back().choose(parsed))
        fail(ErrorCode::Unsupported, "this version of cuBLASLt has no algorithm for the product; rebuild the engine");
    }
    return std::make_unique<DequantizedMatmul>(node, l, std::move(products), epilogue, way->fused, rows);
  }

 private:
  static std::vector<std::string> candidates(const NodeView& node, const Linear& l, int most) {
    const size_t version = find_cublas_lt()->cublasLtGetVersion();
    std::vector<std::string> tactics;
    for (const bool fused : {true, false}) {
      if (!tactics.empty()) break;
      for (const int mib : {32, 16}) {
        const int64_t rows = slice_rows(l, mib);
        if (mib == 16 && rows == slice_rows(l, 32)) continue;
        const auto problem = problem_of(node, l, fused, rows);
        if (!problem) continue;
        for (const auto& result : LtProduct(node.cuda->device(), *problem).algorithms(most))
          tactics.push_back(LtTactic{Way{fused, mib}.text(), version, l.m, result.algo}.text());
      }
    }
    return tactics;
  }
};

}  // namespace

std::vector<const KernelDef*> dequantized_matmul_kernels() {
  static const DequantizedMatmulDef matmul;
  return {&matmul};
}

}  // namespace tokamak::cuda
