// conv of NHWC 16-bit floats as an implicit product on the tensor cores (mma.sync), with any epilogue in the same kernel. Floor: 2 * pixels
// * channels * k operations, or one read of x and w and one write of y, whichever takes longer; at batch 1 mostly launches and latency, so
// tiles are chosen to fill the chip and blocks of a cluster share long sums.

#include <algorithm>
#include <cstring>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/conv_shape.h"
#include "backends/cuda/kernels/epilogue.h"
#include "backends/cuda/kernels/mma_tile.h"

namespace tokamak::cuda {
namespace {

constexpr std::string_view kLayout = "cuda.krsc";  // [M, taps, C / group], rows padded with zeros to a multiple of 8

int64_t row_elements(const ConvShape& s) { return s.taps() * s.group_c(); }
int64_t padded_row(const ConvShape& s) { return ceil_div(row_elements(s), 8) * 8; }

class ConvIgemm final : public Kernel {
 public:
  ConvIgemm(Function function, const MmaTile& tile, const ConvShape& s, Epilogue epilogue)
      : function_(std::move(function)),
        epilogue_(std::move(epilogue)),
        batch_(static_cast<int>(s.n)),
        launch_{
            .grid = {static_cast<unsigned>(ceil_div(s.n * s.out_area(), tile.m) * ceil_div(s.group_m(), tile.n) * s.group * tile.split)},
            .block = {tile.threads()},
            .cluster = static_cast<unsigned>(tile.split),
            .shared_bytes = tile.shared_bytes(),
            .overlap = true} {
    function_.allow_shared_bytes(tile.shared_bytes());
  }
  void run(const RunArgs& args) const override {
    function_.launch(args.stream, launch_, args.inputs[0].raw(), args.inputs[1].raw(), args.outputs[0].raw(), batch_,
                     epilogue_.pointers(args));
  }

 private:
  Function function_;
  Epilogue epilogue_;
  int batch_;
  Launch launch_;
};

class ConvIgemmDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.conv_igemm"; }
  std::string_view op() const override { return "conv"; }
  Support supports(const NodeView& node) const override {
    ConvShape s;
    if (const Support support = conv_shape(node, s); !support) return support;
    const DType dtype = node.input_dtypes[0], out = node.output_dtypes[0];
    if (dtype != DType::F16 && dtype != DType::BF16) return Support::no("x must be f16 or bf16");
    if (node.input_dtypes[1] != dtype)
      return Support::no(fmt::format("w is {}, x is {}", to_string(node.input_dtypes[1]), to_string(dtype)));
    if (out != DType::F32 && out != DType::F16 && out != DType::BF16) return Support::no("the output must be f32, f16 or bf16");
    if (!s.channels_last) return Support::no("channels come first");
    if (node.constants[1] == nullptr) return Support::no("the weights are not constant");
    if (s.group > 1 && s.group_c() % 8 != 0) return Support::no(fmt::format("{} channels a group, needs a multiple of 8", s.group_c()));
    // Elements are counted in 32 bits, with room for the padding and the last tile.
    if (std::max({s.n * (s.in_area() + 1024) * s.c, (s.n * s.out_area() + 1024) * s.m, row_elements(s) * s.m}) > INT32_MAX / 2)
      return Support::no("a tensor of over 2^30 elements");
    if (tactics_of(node, s).empty()) return Support::no("more tiles than a grid has blocks");
    return Epilogue::supports(node);
  }
  std::vector<std::string> tactics(const NodeView& node) const override {
    ConvShape s;
    if (const Support support = conv_shape(node, s); !support) fail(ErrorCode::InvalidArgument, "{}: {}", name(), support.reason());
    return tactics_of(node, s);
  }
  Tensor pack(const NodeView& node, const std::string&, int input) const override {
    ConvShape s;
    if (input != 1 || !conv_shape(node, s)) return {};
    const Tensor& w = *node.constants[1];
    if (w.layout() == kLayout) return w;
    const int64_t taps = s.taps(), channels = s.group_c(), row = padded_row(s);
    Tensor packed = Tensor::packed(w.dtype(), w.shape(), std::string(kLayout), s.m * row * 2);
    const auto* from = w.data<uint16_t>();
    auto* to = static_cast<uint16_t*>(packed.raw());
    std::memset(to, 0, static_cast<size_t>(packed.size_bytes()));
    for (int64_t m = 0; m < s.m; ++m)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t t = 0; t < taps; ++t) to[m * row + t * channels + c] = from[(m * channels + c) * taps + t];
    return packed;
  }
  bool reads_layout(std::string_view layout) const override { return layout == kLayout; }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    ConvShape s;
    if (const Support support = conv_shape(node, s); !support) fail(ErrorCode::InvalidArgument, "{}: {}", name(), support.reason());
    const Tensor* w = node.constants[1];
    if (w == nullptr || w->layout() != kLayout || w->size_bytes() != s.m * padded_row(s) * 2)
      fail(ErrorCode::Corrupt, "{}: the weights are not packed for shape {}; rebuild the engine", name(), to_string(node.input_shapes[1]));
    const MmaTile tile = mma_tile(tactic, node.cuda->target(), problem(s));
    Epilogue epilogue(node);
    std::vector<std::string> defines = tile.defines();
    const std::vector<std::string> sizes = s.defines();
    defines.insert(defines.end(), sizes.begin(), sizes.end());
    const auto define = [&](const char* key, const auto& value) { defines.push_back(fmt::format("{}={}", key, value)); };
    define("ELEMENT", device_type(node.input_dtypes[0]));
    define("OUT_ELEMENT", device_type(node.output_dtypes[0]));
    define("K_PADDED", padded_row(s));
    define("VECTOR", s.group_m() % 8 == 0 ? 8 : 1);
    const Source source{std::string(name()), epilogue.code() + tile.code(device_type(node.input_dtypes[0])) + device_file("conv_igemm.cu"),
                        std::move(defines)};
    return std::make_unique<ConvIgemm>(node.cuda->function(source, "conv_igemm"), tile, s, std::move(epilogue));
  }

 private:
  static MmaProduct problem(const ConvShape& s) { return {s.n * s.out_area(), s.group_m(), row_elements(s), s.group, true}; }
  static std::vector<std::string> tactics_of(const NodeView& node, const ConvShape& s) {
    return mma_tactics(node.cuda->target(), problem(s));
  }
};

}  // namespace

std::vector<const KernelDef*> conv_igemm_kernels() {
  static const ConvIgemmDef conv;
  return {&conv};
}

}  // namespace tokamak::cuda
