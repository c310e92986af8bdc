// conv, conv_integer and conv_transpose of any type, layout, groups and rank, one output a thread; and depthwise convolution of NHWC by
// vectors. The kernels for what matters are conv_igemm.cc and cudnn_conv.cc.

#include <algorithm>
#include <cstring>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/conv_shape.h"
#include "backends/cuda/kernels/epilogue.h"

namespace tokamak::cuda {
namespace {

// Weights [taps, input channels, output channels]: neighbouring threads of an NHWC convolution read neighbours. Of a transposed
// convolution [taps, C, M / group].
constexpr std::string_view kTapsLayout = "cuda.taps_in_out";

Tensor pack_taps(const Tensor& w, const ConvShape& s) {
  if (w.layout() == kTapsLayout) return w;
  const int64_t taps = s.taps(), outer = w.dim(0), inner = w.dim(1), bytes = bits_of(w.dtype()) / 8;
  Tensor packed = Tensor::packed(w.dtype(), w.shape(), std::string(kTapsLayout), w.size_bytes());
  const auto* from = static_cast<const char*>(w.raw());
  auto* to = static_cast<char*>(packed.raw());
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < inner; ++i)
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t at = s.transposed ? (t * outer + o) * inner + i : (t * inner + i) * outer + o;
        std::memcpy(to + at * bytes, from + ((o * inner + i) * taps + t) * bytes, static_cast<size_t>(bytes));
      }
  return packed;
}

// Whether the weights come packed; throws Corrupt when they are packed to another size.
bool is_packed(const NodeView& node) {
  const Tensor* w = node.constants[1];
  if (w == nullptr || w->layout() != kTapsLayout) return false;
  if (w->size_bytes() != bytes_of(w->dtype(), num_elements(node.input_shapes[1])))
    fail(ErrorCode::Corrupt, "packed weights have {} bytes, which do not fit shape {}; rebuild the engine", w->size_bytes(),
         to_string(node.input_shapes[1]));
  return true;
}

class Conv final : public Kernel {
 public:
  Conv(Function function, Epilogue epilogue, const ConvShape& s, bool has_zeros)
      : function_(std::move(function)),
        epilogue_(std::move(epilogue)),
        batch_(static_cast<int>(s.n)),
        blocks_(static_cast<unsigned>(ceil_div(s.n * s.m * s.out_area(), 256))),
        has_zeros_(has_zeros) {}
  void run(const RunArgs& args) const override {
    const auto zero = [&](size_t i) { return has_zeros_ && i < args.inputs.size() ? args.inputs[i].raw() : nullptr; };
    function_.launch(args.stream, {.grid = {blocks_}, .block = {256}, .overlap = true}, args.inputs[0].raw(), args.inputs[1].raw(),
                     args.outputs[0].raw(), zero(2), zero(3), batch_, epilogue_.pointers(args));
  }

 private:
  Function function_;
  Epilogue epilogue_;
  int batch_;
  unsigned blocks_;
  bool has_zeros_;
};

class ConvDef final : public CudaKernelDef {
 public:
  explicit ConvDef(std::string op) : name_("cuda." + op), op_(std::move(op)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  bool is_fallback() const override { return op_ == "conv"; }

  Support supports(const NodeView& node) const override {
    ConvShape shape;
    if (const Support support = conv_shape(node, shape); !support) return support;
    for (int i : {0, 1}) {
      const DType dtype = node.input_dtypes[i];
      if (device_type(dtype).empty() || is_float(dtype) == is_integer_op())
        return Support::no(fmt::format("input {} is {}", i, to_string(dtype)));
    }
    if (device_type(node.output_dtypes[0]).empty()) return Support::no(fmt::format("the output is {}", to_string(node.output_dtypes[0])));
    if (is_integer_op())
      for (int i : {2, 3})
        if (num_zeros(node, i) != 0 && node.input_dtypes[i] != node.input_dtypes[i - 2])
          return Support::no("a zero point is of another type than its operand");
    if (shape.n * shape.m * shape.out_area() > int64_t{256} * INT32_MAX) return Support::no("more outputs than a grid has threads");
    if (std::max({shape.n, shape.c, shape.m, shape.in_area(), shape.out_area()}) > INT32_MAX)
      return Support::no("an axis of over 2^31 elements");
    return Epilogue::supports(node);
  }
  Tensor pack(const NodeView& node, const std::string&, int input) const override {
    ConvShape shape;
    if (input != 1 || !conv_shape(node, shape) || !shape.channels_last) return {};
    return pack_taps(*node.constants[1], shape);
  }
  bool reads_layout(std::string_view layout) const override { return layout == kTapsLayout; }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    ConvShape s;
    if (const Support support = conv_shape(node, s); !support) fail(ErrorCode::InvalidArgument, "{}: {}", name_, support.reason());
    const bool packed = is_packed(node);
    Epilogue epilogue(node);
    std::vector<std::string> defines = s.defines();
    const auto define = [&](const char* name, const auto& value) { defines.push_back(fmt::format("{}={}", name, value)); };
    define("X_ELEMENT", device_type(node.input_dtypes[0]));
    define("W_ELEMENT", device_type(node.input_dtypes[1]));
    define("OUT_ELEMENT", device_type(node.output_dtypes[0]));
    define("ACCUMULATOR", is_integer_op() ? "int32_t" : node.input_dtypes[0] == DType::F64 ? "double" : "float");
    define("TRANSPOSED", s.transposed ? 1 : 0);
    // Dense: [M, C / group, taps], transposed [C, M / group, taps].
    const int64_t taps = s.taps(), outer = s.transposed ? s.c : s.m, inner = s.transposed ? s.group_m() : s.group_c();
    const int64_t inner_step = !packed ? taps : s.transposed ? 1 : outer, outer_step = !packed ? inner * taps : s.transposed ? inner : 1;
    define("W_OUT", s.transposed ? inner_step : outer_step);
    define("W_IN", s.transposed ? outer_step : inner_step);
    define("W_TAP", packed ? outer * inner : 1);
    define("INTEGER", is_integer_op() ? 1 : 0);
    define("X_ZEROS", num_zeros(node, 2) != 0 ? 1 : 0);
    define("W_ZEROS", num_zeros(node, 3));
    define("EPILOGUE", epilogue.empty() ? 0 : 1);
    const Source source{name_, epilogue.code() + device_file("conv.cu"), std::move(defines)};
    return std::make_unique<Conv>(node.cuda->function(source, "conv"), std::move(epilogue), s, is_integer_op());
  }

 private:
  bool is_integer_op() const { return op_ == "conv_integer"; }
  int num_zeros(const NodeView& node, int input) const {
    if (!is_integer_op() || input >= node.num_inputs() || !node.has_input(input)) return 0;
    return num_elements(node.input_shapes[input]) == 1 ? 1 : 2;
  }
  std::string name_, op_;
};

class Depthwise final : public Kernel {
 public:
  Depthwise(Function function, Epilogue epilogue, const ConvShape& s, int vector)
      : function_(std::move(function)),
        epilogue_(std::move(epilogue)),
        batch_(static_cast<int>(s.n)),
        blocks_(static_cast<unsigned>(ceil_div(s.n * s.out_area() * s.c / vector, 256))) {}
  void run(const RunArgs& args) const override {
    function_.launch(args.stream, {.grid = {blocks_}, .block = {256}, .overlap = true}, args.inputs[0].raw(), args.inputs[1].raw(),
                     args.outputs[0].raw(), batch_, epilogue_.pointers(args));
  }

 private:
  Function function_;
  Epilogue epilogue_;
  int batch_;
  unsigned blocks_;
};

class DepthwiseDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.conv_depthwise"; }
  std::string_view op() const override { return "conv"; }
  Support supports(const NodeView& node) const override {
    ConvShape s;
    if (const Support support = conv_shape(node, s); !support) return support;
    const DType dtype = node.input_dtypes[0];
    if (dtype != DType::F32 && dtype != DType::F16 && dtype != DType::BF16) return Support::no("x must be f32, f16 or bf16");
    if (node.input_dtypes[1] != dtype || node.output_dtypes[0] != dtype) return Support::no("x, w and y differ in type");
    if (!s.is_depthwise()) return Support::no("it is not depthwise");
    if (!s.channels_last) return Support::no("channels come first");
    if (node.constants[1] == nullptr) return Support::no("the weights are not constant");
    if (s.c % vector(dtype) != 0) return Support::no(fmt::format("{} channels, needs a multiple of {}", s.c, vector(dtype)));
    if (s.taps() > 128) return Support::no(fmt::format("a window of {} taps, at most 128", s.taps()));
    if (s.n > INT32_MAX || s.n * s.c * s.out_area() > int64_t{256} * INT32_MAX) return Support::no("more outputs than a grid has threads");
    return Epilogue::supports(node);
  }
  Tensor pack(const NodeView& node, const std::string&, int input) const override {
    ConvShape shape;
    if (input != 1 || !conv_shape(node, shape)) return {};
    return pack_taps(*node.constants[1], shape);
  }
  bool reads_layout(std::string_view layout) const override { return layout == kTapsLayout; }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    ConvShape s;
    if (const Support support = conv_shape(node, s); !support) fail(ErrorCode::InvalidArgument, "{}: {}", name(), support.reason());
    if (!is_packed(node)) fail(ErrorCode::InvalidArgument, "{}: the weights are not packed", name());
    Epilogue epilogue(node);
    const DType dtype = node.input_dtypes[0];
    std::vector<std::string> defines = s.defines();
    defines.push_back("ELEMENT=" + device_type(dtype));
    defines.push_back(fmt::format("VEC={}", vector(dtype)));
    const Source source{std::string(name()), epilogue.code() + device_file("conv_depthwise.cu"), std::move(defines)};
    return std::make_unique<Depthwise>(node.cuda->function(source, "conv_depthwise"), std::move(epilogue), s, vector(dtype));
  }

 private:
  static int vector(DType dtype) { return dtype == DType::F32 ? 4 : 8; }
};

}  // namespace

std::vector<const KernelDef*> conv_kernels() {
  static const DepthwiseDef depthwise;
  static const ConvDef conv("conv"), integer("conv_integer"), transpose("conv_transpose");
  return {&depthwise, &conv, &integer, &transpose};
}

}  // namespace tokamak::cuda
