// Linear layers (linear.h) of any number of rows. The way is chosen by the number of rows: a tactic holds for about the m it was timed
// with, a very different one takes what is likely fastest there.

#include <algorithm>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/linear.h"

namespace tokamak::cuda {
namespace {

constexpr int64_t kFewTokens = 2;    // up to here the tensor cores gain little
constexpr int64_t kManyTokens = 64;  // beyond, 16-bit weights are a matmul like any other

// The kernel for matmul of two tensors, for many rows of 16-bit floats.
const KernelDef* find_matmul(const NodeView& node) {
  for (const char* name : {"cublaslt.matmul", "cuda.matmul_mma", "cuda.matmul"})
    if (const KernelDef* def = find_kernel(name); def != nullptr && def->supports(node)) return def;
  return nullptr;
}

class LinearDef final : public CudaKernelDef {
 public:
  explicit LinearDef(bool quantized) : quantized_(quantized) {}
  std::string_view name() const override { return quantized_ ? "cuda.quantized_linear" : "cuda.linear"; }
  std::string_view op() const override { return quantized_ ? "quantized_matmul" : "matmul"; }

  Support supports(const NodeView& node) const override {
    Linear l;
    if (const Support support = Linear::read(node, l); !support) return support;
    std::string reason;
    return linear_ways(node, l, reason).empty() ? Support::no(reason) : Support::yes();
  }

  std::vector<std::string> tactics(const NodeView& node) const override {
    Linear l;
    CHECK(Linear::read(node, l));
    std::string reason;
    return linear_ways(node, l, reason);
  }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    Linear l;
    CHECK(Linear::read(node, l));
    const int64_t timed = tactic_number(tactic, "m"), here = linear_class(l.m);
    if (is_near(timed, here))
      if (auto kernel = make_linear_way(node, l, tactic)) return kernel;
    std::string reason;
    const std::vector<std::string> all = linear_ways(node, l, reason);
    auto kernel = all.empty() ? nullptr : make_linear_way(node, l, all.front());
    if (kernel == nullptr) fail(ErrorCode::Unsupported, "{}: {}", name(), reason);
    return kernel;
  }

 private:
  bool quantized_;
};

}  // namespace

int64_t linear_class(int64_t m) {
  for (const int64_t most : {1, 2, 4, 8, 16, 32, 64})
    if (m <= most) return most;
  return kManyTokens + 1;
}

std::vector<std::string> linear_ways(const NodeView& node, const Linear& l, std::string& reason) {
  const std::string prefix = fmt::format("m={},", linear_class(l.m));
  std::string mma_reason;
  std::vector<std::string> mma = linear_mma_tactics(l, node.cuda->target(), prefix, mma_reason);
  if (l.m > kManyTokens && !l.is_quantized() && !node.node->is("linear") && find_matmul(node) != nullptr)
    return {fmt::format("matmul,m={}", linear_class(l.m))};
  const std::vector<std::string> tiles = gemv_mma_tactics(l, node.cuda->target(), prefix);
  mma.insert(mma.end(), tiles.begin(), tiles.end());
  if (l.m > kFewTokens && !mma.empty()) return mma;
  const std::vector<std::string> gemv = gemv_tactics(l, prefix, reason);
  mma.insert(mma.end(), gemv.begin(), gemv.end());
  if (!mma_reason.empty()) reason += (reason.empty() ? "" : "; ") + mma_reason;
  return mma;
}

std::unique_ptr<Kernel> make_linear_way(const NodeView& node, const Linear& l, const std::string& tactic) {
  if (tactic.starts_with("gemv,")) return make_gemv(node, l, tactic);
  if (tactic.starts_with("tile,")) return make_gemv_mma(node, l, tactic);
  if (tactic.starts_with("mma,")) return make_linear_mma(node, l, tactic);
  if (tactic.starts_with("matmul,"))
    if (const KernelDef* def = find_matmul(node)) return def->make(node, def->tactics(node).front());
  return nullptr;
}

std::vector<const KernelDef*> linear_kernels() {
  static const LinearDef linear(false), quantized(true);
  return {&linear, &quantized};
}

}  // namespace tokamak::cuda
