// matmul of 16-bit floats on the tensor cores through mma.sync or wgmma, with any epilogue in the same kernel. Floor: 2 m n k operations at
// the tensor cores' rate, or one read of a and b and one write of the output, whichever takes longer.

#include <algorithm>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue.h"
#include "backends/cuda/kernels/mma_tile.h"
#include "backends/cuda/kernels/product.h"

namespace tokamak::cuda {
namespace {

constexpr std::string_view kLayout = "cuda.nk";  // b [..., K, N] as [..., N, K]

class MatmulMma final : public Kernel {
 public:
  MatmulMma(Function function, const MmaTile& tile, const Product& p, Epilogue epilogue, float alpha)
      : function_(std::move(function)),
        epilogue_(std::move(epilogue)),
        m_(static_cast<int>(p.m)),
        n_(static_cast<int>(p.n)),
        k_(static_cast<int>(p.k)),
        alpha_(alpha),
        launch_{.grid = {static_cast<unsigned>(ceil_div(p.m, tile.m) * ceil_div(p.n, tile.n) * p.batch_count() * tile.split)},
                .block = {tile.threads()},
                .cluster = static_cast<unsigned>(tile.split),
                .shared_bytes = tile.shared_bytes(),
                .overlap = true} {
    function_.allow_shared_bytes(tile.shared_bytes());
  }
  void run(const RunArgs& args) const override {
    function_.launch(args.stream, launch_, args.inputs[0].raw(), args.inputs[1].raw(), args.outputs[0].raw(), m_, n_, k_, alpha_,
                     epilogue_.pointers(args));
  }

 private:
  Function function_;
  Epilogue epilogue_;
  int m_, n_, k_;
  float alpha_;
  Launch launch_;
};

class MatmulMmaDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.matmul_mma"; }
  std::string_view op() const override { return "matmul"; }
  Support supports(const NodeView& node) const override {
    const DType dtype = node.input_dtypes[0];
    if (dtype != DType::F16 && dtype != DType::BF16) return Support::no("a must be f16 or bf16");
    if (node.input_dtypes[1] != dtype)
      return Support::no(fmt::format("b is {}, a is {}", to_string(node.input_dtypes[1]), to_string(dtype)));
    const DType out = node.output_dtypes[0];
    if (out != DType::F32 && out != DType::F16 && out != DType::BF16) return Support::no("the output must be f32, f16 or bf16");
    const Product p(node);
    if (p.row || p.column) return Support::no("a vector operand");
    const int64_t a_row = p.trans_a ? p.m : p.k, b_row = p.trans_b ? p.k : p.n;
    if (a_row % 8 != 0) return Support::no(fmt::format("rows of a have {} elements, need a multiple of 8", a_row));
    if (b_row % 8 != 0) return Support::no(fmt::format("rows of b have {} elements, need a multiple of 8", b_row));
    if (p.k == 0) return Support::no("k is 0");
    if (p.m * p.batch_count() > INT32_MAX || p.n > INT32_MAX || p.k > INT32_MAX) return Support::no("a size is over 2^31");
    if (mma_tactics(node.cuda->target(), {p.m, p.n, p.k, p.batch_count()}).empty()) return Support::no("more tiles than a grid has blocks");
    return Epilogue::supports(node);
  }
  std::vector<std::string> tactics(const NodeView& node) const override { return mma_tactics(node.cuda->target(), problem(node)); }
  // Warpgroups read b along k.
  Tensor pack(const NodeView& node, const std::string& tactic, int input) const override {
    const Product p(node);
    if (input != 1 || p.trans_b || !mma_tile(tactic, node.cuda->target(), problem(node)).wgmma) return {};
    const Tensor& b = *node.constants[1];
    if (b.layout() == kLayout) return b;
    Tensor packed = Tensor::packed(b.dtype(), b.shape(), std::string(kLayout), b.size_bytes());
    const auto* from = b.data<uint16_t>();
    auto* to = static_cast<uint16_t*>(packed.raw());
    constexpr int64_t kBlock = 32;
    for (int64_t at = 0; at < b.count(); at += p.k * p.n)
      for (int64_t k0 = 0; k0 < p.k; k0 += kBlock)
        for (int64_t n = 0; n < p.n; ++n)
          for (int64_t k = k0; k < std::min(p.k, k0 + kBlock); ++k) to[at + n * p.k + k] = from[at + k * p.n + n];
    return packed;
  }
  bool reads_layout(std::string_view layout) const override { return layout == kLayout; }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const MmaTile tile = mma_tile(tactic, node.cuda->target(), problem(node));
    Product p(node);
    p.flatten();
    const Tensor* constant = node.constants[1];
    const bool packed = constant != nullptr && constant->layout() == kLayout;
    if (packed && constant->size_bytes() != num_elements(node.input_shapes[1]) * 2)
      fail(ErrorCode::Corrupt, "{}: b is not packed for shape {}; rebuild the engine", name(), to_string(node.input_shapes[1]));
    const bool along_k = p.trans_b || packed;
    if (tile.wgmma && (p.trans_a || !along_k || p.k % 8 != 0))
      fail(ErrorCode::Corrupt, "{}: tactic \"{}\" needs operands along k; rebuild the engine", name(), tactic);
    Epilogue epilogue(node);
    std::vector<std::string> defines = tile.defines();
    const std::vector<std::string> offsets = p.offset_defines();
    defines.insert(defines.end(), offsets.begin(), offsets.end());
    const auto define = [&](const char* name, const auto& value) { defines.push_back(fmt::format("{}={}", name, value)); };
    define("ELEMENT", device_type(node.input_dtypes[0]));
    define("OUT_ELEMENT", device_type(node.output_dtypes[0]));
    define("A_ACROSS", p.trans_a ? "true" : "false");
    define("B_ACROSS", along_k ? "false" : "true");
    define("CONSTANT_B", node.constants[1] != nullptr ? "true" : "false");
    define("VECTOR", p.n % 8 == 0 ? 8 : 1);
    const Source source{std::string(name()), epilogue.code() + tile.code(device_type(node.input_dtypes[0])) + device_file("matmul_mma.cu"),
                        std::move(defines)};
    return std::make_unique<MatmulMma>(node.cuda->function(source, "matmul_mma"), tile, p, std::move(epilogue),
                                       static_cast<float>(node.attrs().get_float("alpha", 1)));
  }

 private:
  static MmaProduct problem(const NodeView& node) {
    Product p(node);
    p.flatten();
    const bool along_k = !p.trans_a && p.k % 8 == 0 && (p.trans_b || node.constants[1] != nullptr);
    return {p.m, p.n, p.k, p.batch_count(), along_k};
  }
};

}  // namespace

std::vector<const KernelDef*> matmul_mma_kernels() {
  static const MatmulMmaDef matmul;
  return {&matmul};
}

}  // namespace tokamak::cuda
