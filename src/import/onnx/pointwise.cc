// Elementwise operators.

#include <map>

#include "import/onnx/node_importer.h"
#include "import/onnx/tensor_data.h"

namespace tokamak::onnx {
namespace {

using ir::Attrs;
using ir::Ints;
using ir::Value;

template <const char* kOp>
void unary(NodeImporter& n) {
  n.set_output(0, n.add(kOp, {n.input(0)}));
}

// Before opset 7 a second operand broadcast only when told to, from `axis` on.
Value* legacy_broadcast(NodeImporter& n, Value* a, Value* b) {
  if (n.opset() >= 7 || n.int_attr("broadcast", 0) == 0 || !n.has_attr("axis")) return b;
  const int64_t rank = n.rank(a), b_rank = n.rank(b);
  const int64_t axis = n.axes({n.int_attr("axis")}, rank)[0];
  return n.unsqueeze(b, n.iota(b_rank, rank - axis));
}

template <const char* kOp>
void binary(NodeImporter& n) {
  Value* a = n.input(0);
  n.set_output(0, n.add(kOp, {a, legacy_broadcast(n, a, n.input(1))}));
}

template <const char* kOp>
void variadic(NodeImporter& n) {
  Value* all = n.input(0);
  for (int i = 1; i < n.num_inputs(); ++i) all = n.add(kOp, {all, n.input(i)});
  n.set_output(0, all);
}

void mean(NodeImporter& n) {
  Value* sum = n.input(0);
  for (int i = 1; i < n.num_inputs(); ++i) sum = n.add("add", {sum, n.input(i)});
  n.set_output(0, n.num_inputs() == 1 ? sum : n.add("mul", {sum, n.scalar_like(1.0 / n.num_inputs(), sum)}));
}

// clang-format never comes to rest on this.
// clang-format off
#define OP_NAMES(X) \
  X(abs) X(neg) X(exp) X(log) X(sqrt) X(reciprocal) X(sin) X(cos) X(tan) X(asin) X(acos) X(atan) X(sinh) X(cosh) X(tanh) X(asinh) \
  X(acosh) X(atanh) X(erf) X(sigmoid) X(relu) X(softplus) X(softsign) X(sign) X(ceil) X(floor) X(round) X(bitwise_not) X(isnan) \
  X(hard_swish) X(mish) X(add) X(sub) X(mul) X(div) X(min) X(max) X(equal) X(less) X(less_equal) X(greater) X(greater_equal) X(and) \
  X(or) X(xor) X(bitwise_and) X(bitwise_or) X(bitwise_xor) X(not)
// clang-format on
#define NAME(op) constexpr char k_##op[] = #op;
OP_NAMES(NAME)
#undef NAME

void alpha_op(NodeImporter& n, Text op, double alpha) {
  n.set_output(0, n.add(op, {n.input(0)}, {{"alpha", n.float_attr("alpha", alpha)}}));
}

void leaky_relu(NodeImporter& n) { alpha_op(n, "leaky_relu", 0.01); }
void elu(NodeImporter& n) { alpha_op(n, "elu", 1.0); }
void celu(NodeImporter& n) { alpha_op(n, "celu", 1.0); }
void thresholded_relu(NodeImporter& n) { alpha_op(n, "thresholded_relu", 1.0); }

void selu(NodeImporter& n) {
  const bool old = n.opset() < 6;
  n.set_output(0, n.add("selu", {n.input(0)},
                        {{"alpha", n.float_attr("alpha", old ? 1.6732 : 1.67326319217681884765625)},
                         {"gamma", n.float_attr("gamma", old ? 1.0507 : 1.05070102214813232421875)}}));
}

void hard_sigmoid(NodeImporter& n) {
  n.set_output(0, n.add("hard_sigmoid", {n.input(0)}, {{"alpha", n.float_attr("alpha", 0.2)}, {"beta", n.float_attr("beta", 0.5)}}));
}

void shrink(NodeImporter& n) {
  n.set_output(0, n.add("shrink", {n.input(0)}, {{"bias", n.float_attr("bias", 0.0)}, {"lambd", n.float_attr("lambd", 0.5)}}));
}

void is_inf(NodeImporter& n) {
  n.set_output(0, n.add("isinf", {n.input(0)},
                        {{"detect_negative", n.int_attr("detect_negative", 1)}, {"detect_positive", n.int_attr("detect_positive", 1)}}));
}

void gelu(NodeImporter& n) {
  const std::string approximate = n.string_attr("approximate", "none");
  if (approximate != "none" && approximate != "tanh") n.bad("attribute 'approximate' is '{}', expected 'none' or 'tanh'", approximate);
  n.set_output(0, n.add(approximate == "tanh" ? "gelu_tanh" : "gelu", {n.input(0)}));
}

void bias_gelu(NodeImporter& n) { n.set_output(0, n.add("gelu", {n.add("add", {n.input(0), n.input(1)})})); }

void fast_gelu(NodeImporter& n) {
  Value* x = n.input(0);
  if (n.has_input(1)) x = n.add("add", {x, n.input(1)});
  n.set_output(0, n.add("gelu_tanh", {x}));
}

Value* swish_of(NodeImporter& n, Value* x, double alpha) {
  if (alpha == 1.0) return n.add("silu", {x});
  return n.add("mul", {x, n.add("sigmoid", {n.add("mul", {x, n.scalar_like(alpha, x)})})});
}

void swish(NodeImporter& n) { n.set_output(0, swish_of(n, n.input(0), n.float_attr("alpha", 1.0))); }
void quick_gelu(NodeImporter& n) { n.set_output(0, swish_of(n, n.input(0), n.float_attr("alpha", 1.702))); }

void cast(NodeImporter& n) {
  DType to;
  if (n.opset() < 6) {  // "to" was a name
    static const std::map<std::string, int> kNames = {{"FLOAT", 1},   {"UINT8", 2},   {"INT8", 3},   {"UINT16", 4}, {"INT16", 5},
                                                      {"INT32", 6},   {"INT64", 7},   {"STRING", 8}, {"BOOL", 9},   {"FLOAT16", 10},
                                                      {"DOUBLE", 11}, {"UINT32", 12}, {"UINT64", 13}};
    const auto found = kNames.find(n.string_attr("to", ""));
    if (found == kNames.end()) n.bad("attribute 'to' is '{}', not a type", n.string_attr("to", ""));
    to = dtype_from_onnx(found->second, "attribute 'to'");
  } else {
    to = n.dtype_attr("to");
  }
  Attrs attrs{{"to", to}};
  if (n.int_attr("saturate", 1) == 0) attrs.set("saturate", int64_t{0});
  if (n.string_attr("round_mode", "up") != "up") attrs.set("round_mode", n.string_attr("round_mode", "up"));
  n.set_output(0, n.add("cast", {n.input(0)}, attrs));
}

void cast_like(NodeImporter& n) {
  Attrs attrs{{"to", n.input(1)->type.dtype}};
  if (n.int_attr("saturate", 1) == 0) attrs.set("saturate", int64_t{0});
  n.set_output(0, n.add("cast", {n.input(0)}, attrs));
}

void bit_cast(NodeImporter& n) { n.set_output(0, n.add("bitcast", {n.input(0)}, {{"to", n.dtype_attr("to")}})); }

void bit_shift(NodeImporter& n) {
  const std::string direction = n.string_attr("direction", "");
  if (direction != "LEFT" && direction != "RIGHT") n.bad("attribute 'direction' is '{}', expected LEFT or RIGHT", direction);
  n.set_output(0, n.add(direction == "LEFT" ? "shift_left" : "shift_right", {n.input(0), n.input(1)}));
}

void mod(NodeImporter& n) { n.set_output(0, n.add("mod", {n.input(0), n.input(1)}, {{"fmod", n.int_attr("fmod", 0)}})); }

// The result has the base's type, whatever the exponent's.
void pow(NodeImporter& n) {
  Value* x = n.input(0);
  Value* y = legacy_broadcast(n, x, n.input(1));
  const DType dtype = x->type.dtype, exponent = y->type.dtype;
  if (dtype == exponent) n.set_output(0, n.add("pow", {x, y}));
  else if (is_float(dtype)) n.set_output(0, n.add("pow", {x, n.cast(y, dtype)}));
  else if (is_float(exponent)) n.set_output(0, n.cast(n.add("pow", {n.cast(x, exponent), y}), dtype));
  else n.set_output(0, n.cast(n.add("pow", {n.cast(x, DType::I64), n.cast(y, DType::I64)}), dtype));
}

// The slope broadcasts towards x; before opset 7 a 1-D slope belonged to the channels.
void prelu(NodeImporter& n) {
  Value* x = n.input(0);
  Value* slope = n.input(1);
  if (n.opset() < 7 && n.rank(slope) == 1 && n.rank(x) > 2) slope = n.unsqueeze(slope, n.iota(1, n.rank(x) - 1));
  n.set_output(0, n.add("prelu", {x, slope}));
}

void where(NodeImporter& n) { n.set_output(0, n.add("where", {n.input(0), n.input(1), n.input(2)})); }

void clip_attributes(NodeImporter& n) {
  Attrs attrs;
  for (const char* limit : {"min", "max"})
    if (n.has_attr(limit)) attrs.set(limit, n.float_attr(limit, 0));
  n.set_output(0, n.add("clip", {n.input(0)}, attrs));
}

void clip(NodeImporter& n) {
  Value* x = n.input(0);
  Attrs attrs;
  const auto low = n.const_scalar(n.maybe(1)), high = n.const_scalar(n.maybe(2));
  const bool known = (!n.has_input(1) || low) && (!n.has_input(2) || high);
  if (known && is_float(x->type.dtype)) {
    if (low) attrs.set("min", *low);
    if (high) attrs.set("max", *high);
    n.set_output(0, n.add("clip", {x}, attrs));
    return;
  }
  Values inputs{x, n.maybe(1), n.maybe(2)};
  while (inputs.back() == nullptr) inputs.pop_back();
  n.set_output(0, n.add("clip", inputs));
}

// Inference: the input itself, and a mask of ones.
void dropout(NodeImporter& n) {
  Value* x = n.input(0);
  if (n.opset() < 7 && n.int_attr("is_test", 0) == 0) n.unsupported("it is in training mode", "export the model in evaluation mode");
  if (n.has_input(2)) {
    const auto training = n.const_ints(n.input(2));
    const double ratio = n.has_input(1) ? n.const_scalar(n.input(1)).value_or(0.5) : 0.5;
    if (!training || ((*training)[0] != 0 && ratio != 0))
      n.unsupported("it may run in training mode", "export the model in evaluation mode");
  }
  n.set_output(0, x);
  if (n.wants(1)) {
    const DType mask = n.opset() >= 10 ? DType::Bool : x->type.dtype;
    n.set_output(1, n.add("expand", {n.scalar(1, mask), n.shape_of(x)}));
  }
}

void swiglu(NodeImporter& n) { n.set_output(0, n.add("mul", {swish_of(n, n.input(0), n.float_attr("alpha", 1.0)), n.input(1)})); }

#define UNARY(onnx, op) \
  { onnx, unary<k_##op> }
#define BINARY(onnx, op) \
  { onnx, binary<k_##op> }
constexpr OpImporter kImporters[] = {
    UNARY("Abs", abs),
    UNARY("Neg", neg),
    UNARY("Exp", exp),
    UNARY("Log", log),
    UNARY("Sqrt", sqrt),
    UNARY("Reciprocal", reciprocal),
    UNARY("Sin", sin),
    UNARY("Cos", cos),
    UNARY("Tan", tan),
    UNARY("Asin", asin),
    UNARY("Acos", acos),
    UNARY("Atan", atan),
    UNARY("Sinh", sinh),
    UNARY("Cosh", cosh),
    UNARY("Tanh", tanh),
    UNARY("Asinh", asinh),
    UNARY("Acosh", acosh),
    UNARY("Atanh", atanh),
    UNARY("Erf", erf),
    UNARY("Sigmoid", sigmoid),
    UNARY("Relu", relu),
    UNARY("Softplus", softplus),
    UNARY("Softsign", softsign),
    UNARY("Sign", sign),
    UNARY("Ceil", ceil),
    UNARY("Floor", floor),
    UNARY("Round", round),
    UNARY("Not", not ),
    UNARY("BitwiseNot", bitwise_not),
    UNARY("IsNaN", isnan),
    UNARY("HardSwish", hard_swish),
    UNARY("Mish", mish),
    {"LeakyRelu", leaky_relu},
    {"Elu", elu},
    {"Celu", celu},
    {"ThresholdedRelu", thresholded_relu},
    {"Selu", selu},
    {"HardSigmoid", hard_sigmoid},
    {"Shrink", shrink},
    {"IsInf", is_inf},
    {"Gelu", gelu},
    {"Swish", swish},
    {"SwiGLU", swiglu},
    {"Cast", cast},
    {"CastLike", cast_like},
    BINARY("Add", add),
    BINARY("Sub", sub),
    BINARY("Mul", mul),
    BINARY("Div", div),
    BINARY("Equal", equal),
    BINARY("Less", less),
    BINARY("LessOrEqual", less_equal),
    BINARY("Greater", greater),
    BINARY("GreaterOrEqual", greater_equal),
    BINARY("And", and),
    BINARY("Or", or),
    BINARY("Xor", xor),
    BINARY("BitwiseAnd", bitwise_and),
    BINARY("BitwiseOr", bitwise_or),
    BINARY("BitwiseXor", bitwise_xor),
    {"BitCast", bit_cast},
    {"BitShift", bit_shift},
    {"Mod", mod},
    {"Pow", pow},
    {"PRelu", prelu},
    {"Where", where},
    {"Max", variadic<k_max>},
    {"Min", variadic<k_min>},
    {"Sum", variadic<k_add>},
    {"Mean", mean},
    {"Clip", clip_attributes, 1, 10},
    {"Clip", clip, 11},
    {"Dropout", dropout},
    {"Gelu", gelu, 1, 1 << 20, "com.microsoft"},
    {"FastGelu", fast_gelu, 1, 1 << 20, "com.microsoft"},
    {"BiasGelu", bias_gelu, 1, 1 << 20, "com.microsoft"},
    {"QuickGelu", quick_gelu, 1, 1 << 20, "com.microsoft"},
};

}  // namespace

std::span<const OpImporter> pointwise_importers() { return kImporters; }

}  // namespace tokamak::onnx
