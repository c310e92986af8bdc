// Linear layers of one to a few rows without tensor cores, for every combination of types: each weight is read once, converted and
// multiplied in float32. Floor: the bytes of w over the memory's bandwidth. With more rows the weights are read again (from L2) a block.

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue.h"
#include "backends/cuda/kernels/linear.h"

namespace tokamak::cuda {
namespace {

constexpr int kWarps = 4;          // small blocks: what is left at the end is small too
constexpr int kLoadsInFlight = 8;  // a lane, of up to 16 bytes
constexpr int64_t kMaxTokens = 8;  // a block
constexpr int64_t kMaxMatmulRows = 16;

// Bytes that a lane loads at once: rows begin at a multiple of it, and a group is whole loads.
int64_t load_bytes(const Linear& l) {
  for (int64_t bytes = 16; bytes > 1; bytes /= 2) {
    const int64_t elements = bytes * 8 / bits_of(l.w);
    if (elements > 0 && l.k % elements == 0 && (l.groups() <= 1 || l.group % elements == 0)) return bytes;
  }
  return 1;
}

class Gemv final : public Kernel {
 public:
  Gemv(Function function, const Linear& l, Epilogue epilogue, int rows, int64_t tokens)
      : function_(std::move(function)), epilogue_(std::move(epilogue)), n_(static_cast<int>(l.n)), m_(static_cast<int>(l.m)) {
    launch_ = {.grid = {static_cast<unsigned>(ceil_div(l.n, kWarps * rows)), static_cast<unsigned>(ceil_div(l.m, tokens))},
               .block = {kWarps * 32},
               .overlap = true};
    quantized_ = l.is_quantized();
  }
  void run(const RunArgs& args) const override {
    function_.launch(args.stream, launch_, args.inputs[0].raw(), args.inputs[1].raw(), quantized_ ? args.inputs[2].raw() : nullptr,
                     args.outputs[0].raw(), n_, m_, epilogue_.pointers(args));
  }

 private:
  Function function_;
  Epilogue epilogue_;
  int n_, m_;
  bool quantized_ = false;
  Launch launch_;
};

class GemvDef final : public CudaKernelDef {
 public:
  explicit GemvDef(bool quantized) : quantized_(quantized) {}
  std::string_view name() const override { return quantized_ ? "cuda.quantized_gemv" : "cuda.gemv"; }
  std::string_view op() const override { return quantized_ ? "quantized_matmul" : "matmul"; }
  Support supports(const NodeView& node) const override {
    Linear l;
    if (const Support support = Linear::read(node, l); !support) return support;
    if (l.row_bits() % 8 != 0) return Support::no(fmt::format("k is {}: rows of 4-bit weights are not whole bytes", l.k));
    if (l.groups() > 1 && l.group * bits_of(l.w) % 8 != 0) return Support::no(fmt::format("groups of {} are not whole bytes", l.group));
    if (!quantized_ && l.m > kMaxMatmulRows) return Support::no(fmt::format("{} rows, at most {}", l.m, kMaxMatmulRows));
    if (ceil_div(l.m, kMaxTokens) > 65535) return Support::no(fmt::format("{} rows are more than a grid covers", l.m));
    return Support::yes();
  }
  std::vector<std::string> tactics(const NodeView&) const override { return {"rows=4", "rows=2", "rows=1"}; }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    Linear l;
    CHECK(Linear::read(node, l));
    const int rows = std::min(tactic_number(name(), tactic, "rows"), kLoadsInFlight);
    Epilogue epilogue(node);
    const int64_t tokens = l.m <= 4 ? l.m : kMaxTokens;
    std::vector<std::string> defines = l.defines();
    const auto define = [&](const char* key, int64_t value) { defines.push_back(fmt::format("{}={}", key, value)); };
    define("LOAD_BYTES", load_bytes(l));
    define("TOKENS", tokens);
    define("WARPS", kWarps);
    define("ROWS", rows);
    define("PREFETCH", kLoadsInFlight / rows);
    const Source source{std::string(name()), epilogue.code() + device_file("gemv.cu"), std::move(defines)};
    return std::make_unique<Gemv>(node.cuda->function(source, "gemv"), l, std::move(epilogue), rows, tokens);
  }

 private:
  bool quantized_;
};

}  // namespace

std::vector<const KernelDef*> gemv_kernels() {
  static const GemvDef gemv(false), quantized(true);
  return {&gemv, &quantized};
}

}  // namespace tokamak::cuda
