// quantize, dequantize, dynamic_quantize. A scale of the whole tensor or of an axis makes a pointwise op; block scales and 4-bit elements
// are looked up by index. Arithmetic is float32, as ONNX defines it.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cuda/kernels/elementwise.h"
#include "backends/cuda/kernels/indexed.h"

namespace tokamak::cuda {
namespace {

using cpu::ref::normalize_axis;

bool is_small_float(DType d) { return d == DType::F8E4M3FN || d == DType::F8E4M3FNUZ || d == DType::F8E5M2 || d == DType::F8E5M2FNUZ; }
std::string small_float_type(DType d) {
  return d == DType::F8E4M3FN ? "f8e4m3fn" : d == DType::F8E4M3FNUZ ? "f8e4m3fnuz" : d == DType::F8E5M2 ? "f8e5m2" : "f8e5m2fnuz";
}
bool is_nibble(DType d) { return d == DType::I4 || d == DType::U4; }
std::string type_of(DType d) {
  return is_small_float(d) ? small_float_type(d) : is_nibble(d) ? "uint8_t" : d == DType::Bool ? "" : device_type(d);
}

// How scale and zero point lie on x.
struct ScaleIndex {
  bool per_tensor = true;
  int64_t inner = 1, axis_size = 1, block = 0, blocks = 1, axis = 0;
  explicit ScaleIndex(const NodeView& node) {
    const Shape &x = node.input_shapes[0], &scale = node.input_shapes[1];
    block = node.attrs().get_int("block_size", 0);
    per_tensor = num_elements(scale) == 1 && block == 0;
    if (per_tensor) return;
    axis = normalize_axis(node.attrs().get_int("axis", 1), static_cast<int64_t>(x.size()));
    inner = num_elements(std::span(x).subspan(axis + 1)), axis_size = x[axis];
    if (block > 0) blocks = ceil_div(axis_size, block);
  }
  bool fits(const NodeView& node) const {
    const int64_t count = num_elements(node.input_shapes[1]);
    if (per_tensor) return true;
    return block > 0 ? num_elements(node.input_shapes[0]) / std::max<int64_t>(axis_size, 1) * blocks == count : count == axis_size;
  }
  // The shape under which scale and zero broadcast to x.
  Shape broadcast(const Shape& x) const {
    if (per_tensor) return {};
    Shape shape(x.size() - static_cast<size_t>(axis), 1);
    shape[0] = axis_size;
    return shape;
  }
  // "(i / 12 / ...)": the element of scale for element i of x.
  std::string text() const {
    if (per_tensor) return "0";
    if (block == 0) return fmt::format("i / {} % {}", inner, axis_size);
    return fmt::format("(i / {0} / {1} * {2} + i / {0} % {1} / {3}) * {0} + i % {0}", inner, axis_size, blocks, block);
  }
};

// y = f(x, scale, zero) as an expression over variables of these names.
std::string quantized(DType to, bool saturate) {
  if (is_small_float(to)) return fmt::format("convert<{}>(__fdiv_rn(x, scale) + zero, {})", small_float_type(to), saturate);
  const int bits = bits_of(to);
  const bool is_signed = is_signed_integer(to);
  const double low = is_signed ? -static_cast<double>(int64_t{1} << (bits - 1)) : 0;
  const double high = static_cast<double>((int64_t{1} << (is_signed ? bits - 1 : bits)) - 1);
  // Up to 16 bits every sum that is not clamped is exact in float.
  const std::string real = bits <= 16 ? "float" : "double";
  return fmt::format("{0}(fmin(fmax((ratio != ratio ? {1}(0) : {1}(rintf(ratio))) + {1}(zero), {1}({2})), {1}({3})))", device_type(to),
                     real, low, high);
}

class QuantizeDef final : public CudaKernelDef {
 public:
  explicit QuantizeDef(bool back) : back_(back) {}
  std::string_view name() const override { return back_ ? "cuda.dequantize" : "cuda.quantize"; }
  std::string_view op() const override { return back_ ? "dequantize" : "quantize"; }
  Support supports(const NodeView& node) const override {
    const DType from = node.input_dtypes[0], to = node.output_dtypes[0];
    const auto real = [](DType d) { return d == DType::F32 || d == DType::F16 || d == DType::BF16 || d == DType::F64; };
    if (type_of(from).empty() || type_of(to).empty() || is_nibble(to) || (!is_float(to) && bits_of(to) > 32))
      return Support::no(fmt::format("{} to {}", to_string(from), to_string(to)));
    if (back_ ? real(from) || !real(to) : real(to)) return Support::no(fmt::format("{} to {}", to_string(from), to_string(to)));
    if (!real(node.input_dtypes[1])) return Support::no(fmt::format("scale of {}", to_string(node.input_dtypes[1])));
    if (!ScaleIndex(node).fits(node)) return Support::no("scale does not fit x");
    return supports_elementwise(node, 4);
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const ScaleIndex index(node);
    const DType from = node.input_dtypes[0], to = node.output_dtypes[0];
    const bool has_zero = node.num_inputs() > 2 && node.has_input(2);
    const std::string zero_type = has_zero ? type_of(node.input_dtypes[2]) : "";
    const std::string x_type = type_of(from), scale_type = device_type(node.input_dtypes[1]), y_type = type_of(to);
    // 32-bit integers less their zero point need more than float.
    const std::string middle = back_ && is_integer(from) && bits_of(from) == 32 ? "double" : "float";
    const auto number = [&](DType d, const std::string& value) {
      if (is_small_float(d)) return value + ".value()";
      return "widen<" + (is_integer(d) && bits_of(d) == 32 ? std::string("double") : std::string("float")) + ">(" + value + ")";
    };
    const std::string result =
        back_ ? fmt::format("narrow<{}>(float(x - zero) * scale)", y_type) : quantized(to, node.attrs().get_bool("saturate", true));
    const std::string before = back_ ? "" : "const float ratio = __fdiv_rn(x, scale); ";
    const std::string preamble = "#include \"cast.cuh\"\n";
    if (index.block > 0 || is_nibble(from)) {
      IndexedCode code{.name = std::string(name()), .preamble = preamble, .body = {}};
      code.inputs = {{0, x_type}, {1, scale_type}};
      if (has_zero) code.inputs.push_back({2, zero_type});
      code.outputs = {{0, y_type}};
      code.count = num_elements(node.input_shapes[0]), code.largest = num_elements(node.input_shapes[1]) + code.count;
      const auto element = [&](DType d, const std::string& array, const std::string& at) {
        if (!is_nibble(d)) return number(d, array + "[" + at + "]");
        const std::string nibble = fmt::format("int({0}[({1}) / 2] >> (({1}) % 2 * 4) & 15)", array, at);
        return d == DType::I4 ? fmt::format("float(({} ^ 8) - 8)", nibble) : fmt::format("float({})", nibble);
      };
      code.body = fmt::format(
          "  const Index at = {};\n  const {} x = {}, zero = {};\n  const float scale = widen<float>(in1[at]);\n  {}\n  out0[i] = {};",
          index.text(), middle, element(from, "in0", "i"), has_zero ? element(node.input_dtypes[2], "in2", "at") : "0", before, result);
      return std::make_unique<IndexedKernel>(node, std::vector<IndexedCode>{code});
    }
    const Shape scale_shape = index.broadcast(node.input_shapes[0]);
    ElementwiseCode code{.name = std::string(name()), .preamble = preamble, .inputs = {}, .outputs = {}, .body = {}};
    code.inputs = {{0, x_type, x_type, {}}, {1, scale_type, "float", scale_shape}};
    if (has_zero) code.inputs.push_back({2, zero_type, zero_type, scale_shape});
    code.outputs = {{0, y_type, y_type, {}}};
    code.body = fmt::format("const {} x = {}, zero = {}; const float scale = x1; {} y0 = {};", middle, number(from, "x0"),
                            has_zero ? number(node.input_dtypes[2], "x2") : "0", before, result);
    return make_elementwise(node, node.output_shapes[0], code);
  }

 private:
  bool back_;
};

class DynamicQuantize final : public Kernel {
 public:
  DynamicQuantize(Function find_range, Function quantize, int64_t count, unsigned parts)
      : find_range_(std::move(find_range)), quantize_(std::move(quantize)), count_(count), parts_(parts) {}
  int64_t workspace_bytes() const override { return parts_ * 8; }
  void run(const RunArgs& args) const override {
    const auto output = [&](size_t i) -> void* {
      return i < args.outputs.size() && args.outputs[i].defined() ? args.outputs[i].raw() : nullptr;
    };
    const Launch launch{.grid = {parts_}, .block = {256}, .overlap = true};
    find_range_.launch(args.stream, launch, args.inputs[0].raw(), args.workspace, count_);
    quantize_.launch(args.stream, launch, args.inputs[0].raw(), args.workspace, output(0), output(1), output(2), count_);
  }

 private:
  Function find_range_, quantize_;
  int64_t count_;
  unsigned parts_;
};

class DynamicQuantizeDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.dynamic_quantize"; }
  std::string_view op() const override { return "dynamic_quantize"; }
  Support supports(const NodeView& node) const override {
    const DType d = node.input_dtypes[0];
    return d == DType::F32 || d == DType::F16 || d == DType::BF16 ? Support::yes() : Support::no("x must be f32, f16 or bf16");
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const int64_t count = num_elements(node.input_shapes[0]);
    const int64_t parts = std::clamp<int64_t>(ceil_div(count, 256 * 8), 1, int64_t{node.cuda->target().num_sms} * 4);
    const Source source = device_source("cuda.dynamic_quantize", "dynamic_quantize.cu",
                                        {"ELEMENT=" + device_type(node.input_dtypes[0]), fmt::format("PARTS={}", parts)});
    return std::make_unique<DynamicQuantize>(node.cuda->function(source, "find_range"), node.cuda->function(source, "quantize"), count,
                                             static_cast<unsigned>(parts));
  }
};

}  // namespace

std::vector<const KernelDef*> quantize_kernels() {
  static const QuantizeDef quantize(false), dequantize(true);
  static const DynamicQuantizeDef dynamic;
  return {&quantize, &dequantize, &dynamic};
}

}  // namespace tokamak::cuda
