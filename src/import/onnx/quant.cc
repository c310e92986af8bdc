// Quantised operators. Those that compute on integers are spelled out as dequantize, compute, quantize: passes find the integer kernels.

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Attrs;
using ir::Value;

Value* quantize(NodeImporter& n, Value* x, Value* scale, Value* zero, DType to, int64_t axis = 1) {
  Values inputs{x, scale};
  if (zero) inputs.push_back(zero);
  return n.add("quantize", inputs, {{"axis", axis}, {"to", to}});
}

Value* dequantize(NodeImporter& n, Value* x, Value* scale, Value* zero, int64_t axis = 1) {
  Values inputs{x, scale};
  if (zero) inputs.push_back(zero);
  return n.add("dequantize", inputs, {{"axis", axis}});
}

void quantize_linear(NodeImporter& n) {
  Value* zero = n.maybe(2);
  DType to = zero ? zero->type.dtype : DType::U8;
  if (n.int_attr("output_dtype", 0) != 0 && !zero) to = n.dtype_attr("output_dtype");
  Attrs attrs{{"axis", n.int_attr("axis", 1)}, {"to", to}};
  if (n.int_attr("block_size", 0) != 0) attrs.set("block_size", n.int_attr("block_size"));
  if (n.int_attr("saturate", 1) == 0) attrs.set("saturate", int64_t{0});
  Values inputs{n.input(0), n.input(1)};
  if (zero) inputs.push_back(zero);
  n.set_output(0, n.add("quantize", inputs, attrs));
}

void dequantize_linear(NodeImporter& n) {
  Attrs attrs{{"axis", n.int_attr("axis", 1)}};
  if (n.int_attr("block_size", 0) != 0) attrs.set("block_size", n.int_attr("block_size"));
  Values inputs{n.input(0), n.input(1)};
  if (n.has_input(2)) inputs.push_back(n.input(2));
  Value* y = n.add("dequantize", inputs, attrs);
  n.set_output(0, n.int_attr("output_dtype", 0) != 0 ? n.cast(y, n.dtype_attr("output_dtype")) : y);
}

void dynamic_quantize_linear(NodeImporter& n) {
  ir::Node* made = n.add_node("dynamic_quantize", {n.input(0)}, {}, 3);
  n.set_outputs({made->outputs().begin(), made->outputs().end()});
}

// A per-column scale of b applies to its last axis, a per-row scale of a to the one before.
void qlinear_matmul(NodeImporter& n) {
  Value* a = n.input(0);
  Value* b = n.input(3);
  const auto axis_of = [&](Value* v, int64_t axis) {
    return v->type.ranked && v->type.rank() > 0 ? n.axes({axis}, v->type.rank())[0] : axis;
  };
  Value* x = dequantize(n, a, n.input(1), n.input(2), axis_of(a, n.rank(a) > 1 ? -2 : -1));
  Value* y = dequantize(n, b, n.input(4), n.input(5), axis_of(b, -1));
  n.set_output(0, quantize(n, n.add("matmul", {x, y}), n.input(6), n.input(7), n.input(7)->type.dtype));
}

void qlinear_conv(NodeImporter& n) {
  Value* w = n.input(3);
  const int64_t spatial = n.rank(w) - 2;
  if (spatial < 1 || spatial > 3) n.unsupported(fmt::format("it has {} spatial dimensions; 1 to 3 are supported", spatial));
  Attrs attrs{{"strides", n.ints_attr("strides", ir::Ints(spatial, 1))},
              {"dilations", n.ints_attr("dilations", ir::Ints(spatial, 1))},
              {"pads", n.ints_attr("pads", ir::Ints(2 * spatial, 0))},
              {"group", n.int_attr("group", 1)}};
  if (n.string_attr("auto_pad", "NOTSET") != "NOTSET") attrs.set("auto_pad", n.string_attr("auto_pad", "NOTSET"));
  Value* x_scale = n.input(1);
  Value* w_scale = n.input(4);
  Values inputs{dequantize(n, n.input(0), x_scale, n.input(2)), dequantize(n, w, w_scale, n.input(5), 0)};
  if (n.has_input(8)) {  // the bias counts in units of both scales
    Value* unit = n.add("mul", {x_scale, w_scale});
    inputs.push_back(n.add("mul", {n.cast(n.input(8), x_scale->type.dtype), unit}));
  }
  n.set_output(0, quantize(n, n.add("conv", inputs, attrs), n.input(6), n.input(7), n.input(7)->type.dtype));
}

// --- com.microsoft ---

template <const char* kOp>
void qlinear_binary(NodeImporter& n) {
  Value* a = dequantize(n, n.input(0), n.input(1), n.maybe(2));
  Value* b = dequantize(n, n.input(3), n.input(4), n.maybe(5));
  n.set_output(0, quantize(n, n.add(kOp, {a, b}), n.input(6), n.maybe(7), n.input(0)->type.dtype));
}

constexpr char kAdd[] = "add", kMul[] = "mul";

void qlinear_unary(NodeImporter& n, Text op, const Attrs& attrs) {
  Value* x = dequantize(n, n.input(0), n.input(1), n.maybe(2));
  n.set_output(0, quantize(n, n.add(op, {x}, attrs), n.input(3), n.maybe(4), n.input(0)->type.dtype));
}

void qlinear_sigmoid(NodeImporter& n) { qlinear_unary(n, "sigmoid", {}); }
void qlinear_leaky_relu(NodeImporter& n) { qlinear_unary(n, "leaky_relu", {{"alpha", n.float_attr("alpha", 0.01)}}); }

void qlinear_global_average_pool(NodeImporter& n) {
  const int64_t rank = n.rank(n.input(0));
  const bool last = n.int_attr("channels_last", 0) != 0;
  qlinear_unary(n, "reduce_mean", {{"axes", last ? n.iota(1, rank - 1) : n.iota(2, rank)}, {"keepdims", int64_t{1}}});
}

void qlinear_concat(NodeImporter& n) {
  Values parts;
  for (int i = 2; i + 1 < n.num_inputs(); i += 3) parts.push_back(dequantize(n, n.input(i), n.input(i + 1), n.maybe(i + 2)));
  if (parts.empty()) n.bad("it has no inputs to concatenate");
  n.set_output(0, quantize(n, n.concat(parts, n.axis(n.int_attr("axis"), parts[0])), n.input(0), n.maybe(1), n.input(2)->type.dtype));
}

void matmul_integer_to_float(NodeImporter& n) {
  Value* a = dequantize(n, n.input(0), n.input(2), n.maybe(4));
  Value* b = dequantize(n, n.input(1), n.input(3), n.maybe(5), n.rank(n.input(1)) - 1);
  Value* y = n.add("matmul", {a, b});
  n.set_output(0, n.has_input(6) ? n.add("add", {y, n.input(6)}) : y);
}

void dynamic_quantize_matmul(NodeImporter& n) {
  ir::Node* q = n.add_node("dynamic_quantize", {n.input(0)}, {}, 3);
  Value* a = dequantize(n, q->output(0), q->output(1), q->output(2));
  Value* b = dequantize(n, n.input(1), n.input(2), n.maybe(3), n.rank(n.input(1)) - 1);
  Value* y = n.add("matmul", {a, b});
  n.set_output(0, n.has_input(4) ? n.add("add", {y, n.input(4)}) : y);
}

constexpr int kAny = 1 << 20;
constexpr Text kMs = "com.microsoft";
constexpr OpImporter kImporters[] = {
    {"QuantizeLinear", quantize_linear},
    {"DequantizeLinear", dequantize_linear},
    {"DynamicQuantizeLinear", dynamic_quantize_linear},
    {"QLinearMatMul", qlinear_matmul},
    {"QLinearConv", qlinear_conv},
    {"QuantizeLinear", quantize_linear, 1, kAny, kMs},
    {"DequantizeLinear", dequantize_linear, 1, kAny, kMs},
    {"QLinearAdd", qlinear_binary<kAdd>, 1, kAny, kMs},
    {"QLinearMul", qlinear_binary<kMul>, 1, kAny, kMs},
    {"QLinearSigmoid", qlinear_sigmoid, 1, kAny, kMs},
    {"QLinearLeakyRelu", qlinear_leaky_relu, 1, kAny, kMs},
    {"QLinearGlobalAveragePool", qlinear_global_average_pool, 1, kAny, kMs},
    {"QLinearConcat", qlinear_concat, 1, kAny, kMs},
    {"MatMulIntegerToFloat", matmul_integer_to_float, 1, kAny, kMs},
    {"DynamicQuantizeMatMul", dynamic_quantize_matmul, 1, kAny, kMs},
};

}  // namespace

std::span<const OpImporter> quant_importers() { return kImporters; }

}  // namespace tokamak::onnx
