// Every pointwise op as a statement for the generator (elementwise.h): unary, binary, where, clip, cast, bitcast, and the views as copies.
// Floats are computed in float (f64 in double), integers exactly.

#include <cmath>
#include <functional>

#include "backends/cpu/kernels/ref/scalar.h"
#include "backends/cuda/kernels/elementwise.h"
#include "backends/cuda/kernels/expr_code.h"
#include "ir/op.h"

namespace tokamak::cuda {
namespace {

using Statement = std::function<Support(const NodeView&, ElementwiseCode&)>;  // fills the code in, or says why not

bool is_half(DType d) { return d == DType::F16 || d == DType::BF16; }

// Storage and arithmetic of a dtype; "" when there is none.
std::string storage_of(DType d) { return d == DType::Bool ? "uint8_t" : device_type(d); }
std::string compute_of(DType d) { return d == DType::Bool ? "bool" : d == DType::F32 || is_half(d) ? "float" : device_type(d); }
std::string bits_type(DType d) {
  switch (d == DType::String ? 0 : bits_of(d)) {
    case 8: return "uint8_t";
    case 16: return "uint16_t";
    case 32: return "uint32_t";
    case 64: return "uint64_t";
    default: return "";
  }
}

// Operands that are computed with; false when a dtype has no arithmetic here.
bool add_operands(const NodeView& node, int num_inputs, ElementwiseCode& code) {
  for (int i = 0; i < num_inputs; ++i) code.inputs.push_back({i, storage_of(node.input_dtypes[i]), compute_of(node.input_dtypes[i])});
  code.outputs.push_back({0, storage_of(node.output_dtypes[0]), compute_of(node.output_dtypes[0])});
  for (const auto* list : {&code.inputs, &code.outputs})
    for (const ElementwiseOperand& operand : *list)
      if (operand.storage.empty()) return false;
  return true;
}

std::string number(double value, const std::string& compute) {
  if (compute == "float") return device_literal(static_cast<float>(value));
  if (std::isinf(value) || std::isnan(value)) return "double(" + device_literal(static_cast<float>(value)) + ")";
  return fmt::format("({:a})", value);
}

std::string math_header(const std::string& compute) {
  return compute == "double" ? "#include \"math_double.cuh\"\n" : "#include \"math.cuh\"\n";
}

Support dtype_reason(const NodeView& node) { return Support::no(fmt::format("input dtype {}", to_string(node.input_dtypes[0]))); }

Support unary(const NodeView& node, ElementwiseCode& code) {
  const std::string op(node.node->op().name);
  const DType dtype = node.input_dtypes[0];
  if (op == "isnan" || op == "isinf") {
    if (!is_float(dtype) || bits_of(dtype) < 16 || !add_operands(node, 1, code)) return dtype_reason(node);
    if (op == "isnan") {
      code.body = "y0 = x0 != x0;";
    } else {
      const bool negative = node.attrs().get_bool("detect_negative", true), positive = node.attrs().get_bool("detect_positive", true);
      code.body = fmt::format("y0 = (x0 - x0 != x0 - x0) && x0 == x0 && (x0 > 0 ? {} : {});", positive, negative);
    }
    return Support::yes();
  }
  if (!add_operands(node, 1, code)) return dtype_reason(node);
  if (dtype == DType::Bool) {
    if (op != "not") return dtype_reason(node);
    code.body = "y0 = !x0;";
    return Support::yes();
  }
  if (is_integer(dtype)) {
    if (op == "bitwise_not") code.body = fmt::format("y0 = {}(~x0);", code.inputs[0].compute);
    else if (op == "ceil" || op == "floor" || op == "round") code.body = "y0 = x0;";
    else if (op == "abs" || op == "neg" || op == "sign" || op == "relu") code.body = fmt::format("y0 = integer::{}(x0);", op);
    else return dtype_reason(node);
    code.preamble = "#include \"integer.cuh\"\n";
    return Support::yes();
  }
  const cpu::ref::Scalar* scalar = cpu::ref::find_scalar(op);
  if (scalar == nullptr || op == "not") return dtype_reason(node);
  const std::string& compute = code.inputs[0].compute;
  code.preamble = math_header(compute);
  code.body = "y0 = " + device_function(op) + "(x0";
  for (double parameter : cpu::ref::scalar_parameters(*scalar, node.attrs())) code.body += ", " + number(parameter, compute);
  code.body += ");";
  return Support::yes();
}

const char* comparison(const std::string& op) {
  return op == "equal"           ? "=="
         : op == "less"          ? "<"
         : op == "less_equal"    ? "<="
         : op == "greater"       ? ">"
         : op == "greater_equal" ? ">="
                                 : nullptr;
}

Support binary(const NodeView& node, ElementwiseCode& code) {
  const std::string op(node.node->op().name);
  const DType dtype = node.input_dtypes[0];
  if (!add_operands(node, 2, code)) return dtype_reason(node);
  if (dtype != node.input_dtypes[1]) return Support::no("operands differ in type");
  const std::string& compute = code.inputs[0].compute;
  if (const char* sign = comparison(op)) {
    code.body = fmt::format("y0 = x0 {} x1;", sign);
    return Support::yes();
  }
  if (dtype == DType::Bool) {
    if (op == "and" || op == "bitwise_and" || op == "min" || op == "mul") code.body = "y0 = x0 && x1;";
    else if (op == "or" || op == "bitwise_or" || op == "max") code.body = "y0 = x0 || x1;";
    else if (op == "xor" || op == "bitwise_xor") code.body = "y0 = x0 != x1;";
    else return dtype_reason(node);
    return Support::yes();
  }
  const bool floor_mod = op == "mod" && !node.attrs().get_bool("fmod", false);
  if (is_integer(dtype)) {
    code.preamble = "#include \"integer.cuh\"\n";
    if (op == "bitwise_and" || op == "bitwise_or" || op == "bitwise_xor") {
      code.body = fmt::format("y0 = {}(x0 {} x1);", compute, op == "bitwise_and" ? "&" : op == "bitwise_or" ? "|" : "^");
    } else if (op == "and" || op == "or" || op == "xor") {
      return dtype_reason(node);
    } else {
      code.body = fmt::format("y0 = integer::{}(x0, x1);", floor_mod ? "floor_mod" : op);
    }
    return Support::yes();
  }
  if (op.starts_with("bitwise") || op.starts_with("shift") || op == "and" || op == "or" || op == "xor") return dtype_reason(node);
  code.preamble = math_header(compute);
  code.body = fmt::format("y0 = {}(x0, x1);", device_function(op));
  if (floor_mod) code.body += " if (y0 != 0 && (y0 < 0) != (x1 < 0)) y0 += x1;";
  return Support::yes();
}

// Base and exponent may differ in type.
Support power(const NodeView& node, ElementwiseCode& code) {
  if (!add_operands(node, 2, code) || node.input_dtypes[0] == DType::Bool || node.input_dtypes[1] == DType::Bool) return dtype_reason(node);
  const bool is_float_base = is_float(node.input_dtypes[0]);
  const std::string base = code.inputs[0].compute;
  const Tensor* exponent = node.constants[1];
  const double value = exponent && exponent->count() == 1 ? exponent->float_at(0) : 0.5;
  if (!is_float_base && is_integer(node.input_dtypes[1])) {
    code.preamble = "#include \"integer.cuh\"\n";
    code.body = fmt::format("y0 = integer::pow(x0, integer::Wide<{}>::type(x1));", base);
  } else if (is_float_base && (value == 1 || value == 2 || value == 3)) {
    code.inputs.pop_back();
    code.body = value == 1 ? "y0 = x0;" : value == 2 ? "y0 = x0 * x0;" : "y0 = x0 * x0 * x0;";
  } else if (base == "float" && code.inputs[1].compute == "float") {
    code.body = "y0 = ::powf(x0, x1);";
  } else {
    code.preamble = "#include \"cast.cuh\"\n";
    // An integer result is truncated: a power that is whole must not fall short of it by a rounding error.
    const char* const snap =
        is_float_base ? "" : " const double whole = ::rint(p); if (::fabs(p - whole) <= 4e-15 * ::fabs(whole)) p = whole;";
    code.body = fmt::format("double p = ::pow(double(x0), double(x1));{} y0 = convert<{}>(p);", snap, base);
  }
  return Support::yes();
}

Support where(const NodeView& node, ElementwiseCode& code) {
  const std::string type = bits_type(node.output_dtypes[0]);
  if (type.empty()) return Support::no(fmt::format("dtype {}", to_string(node.output_dtypes[0])));
  code.inputs = {{0, "uint8_t", "bool"}, {1, type, type}, {2, type, type}};
  code.outputs = {{0, type, type}};
  code.body = "y0 = x0 ? x1 : x2;";
  return Support::yes();
}

Support clip(const NodeView& node, ElementwiseCode& code) {
  const DType dtype = node.input_dtypes[0];
  if (!add_operands(node, 1, code) || dtype == DType::Bool) return dtype_reason(node);
  const bool is_int = is_integer(dtype);
  std::string compute = code.inputs[0].compute;
  if (is_int) compute = is_signed_integer(dtype) ? "int64_t" : "uint64_t";
  code.inputs[0].compute = code.outputs[0].compute = compute;
  code.body = "y0 = x0;";
  const auto limit = [&](int input, const char* attribute, const char* sign) {
    std::string text;
    if (node.has_input(input)) {
      text = fmt::format("x{}", code.inputs.size());
      code.inputs.push_back({input, storage_of(dtype), compute});
    } else if (const double value = node.attrs().get_float(attribute, INFINITY); node.attrs().has(attribute) && !std::isinf(value)) {
      text = is_int ? fmt::format("{}({}ll)", compute, static_cast<int64_t>(value)) : number(value, compute);
    }
    if (!text.empty()) code.body += fmt::format(" if (y0 {0} {1}) y0 = {1};", sign, text);
  };
  limit(1, "min", "<");
  limit(2, "max", ">");
  if (!is_int) code.preamble = math_header(compute);
  return Support::yes();
}

std::string cast_type(DType d) {
  switch (d) {
    case DType::Bool: return "bool";
    case DType::F8E4M3FN: return "f8e4m3fn";
    case DType::F8E4M3FNUZ: return "f8e4m3fnuz";
    case DType::F8E5M2: return "f8e5m2";
    case DType::F8E5M2FNUZ: return "f8e5m2fnuz";
    default: return device_type(d);
  }
}

Support cast(const NodeView& node, ElementwiseCode& code) {
  const DType from = node.input_dtypes[0], to = node.output_dtypes[0];
  const std::string from_type = from == to ? bits_type(from) : cast_type(from), to_type = from == to ? bits_type(to) : cast_type(to);
  if (from_type.empty() || to_type.empty()) return Support::no(fmt::format("{} to {}", to_string(from), to_string(to)));
  code.inputs = {{0, from_type == "bool" ? "uint8_t" : from_type, from_type}};
  code.outputs = {{0, to_type == "bool" ? "uint8_t" : to_type, to_type}};
  code.preamble = "#include \"cast.cuh\"\n";
  code.body = from == to ? "y0 = x0;" : fmt::format("y0 = convert<{}>(x0, {});", to_type, node.attrs().get_bool("saturate", true));
  return Support::yes();
}

class PointwiseDef final : public CudaKernelDef {
 public:
  PointwiseDef(std::string op, Statement statement) : name_("cuda." + op), op_(std::move(op)), statement_(std::move(statement)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    ElementwiseCode code;
    if (const Support support = statement_(node, code); !support) return support;
    return supports_elementwise(node, code.inputs.size() + code.outputs.size());
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    ElementwiseCode code{.name = name_, .preamble = {}, .inputs = {}, .outputs = {}, .body = {}};
    CHECK(static_cast<bool>(statement_(node, code)));
    return make_elementwise(node, node.output_shapes[0], code);
  }

 private:
  std::string name_, op_;
  Statement statement_;
};

// The input's bytes: views and bitcast. Where the runtime lets them share memory there is nothing to do.
class CopyKernel final : public Kernel {
 public:
  CopyKernel(Function function, int64_t bytes) : function_(std::move(function)), bytes_(bytes) {}
  bool can_alias(int, int input) const override { return input == 0; }
  void run(const RunArgs& args) const override {
    if (args.inputs[0].raw() == args.outputs[0].raw()) return;
    function_.launch(args.stream, {.grid = {static_cast<unsigned>(ceil_div(bytes_, 256 * 16))}, .block = {256}, .overlap = true},
                     args.inputs[0].raw(), args.outputs[0].raw(), bytes_);
  }

 private:
  Function function_;
  int64_t bytes_;
};

class CopyDef final : public CudaKernelDef {
 public:
  explicit CopyDef(std::string op) : name_("cuda." + op), op_(std::move(op)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    return node.input_dtypes[0] == DType::String ? Support::no("strings") : Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    return std::make_unique<CopyKernel>(node.cuda->function(device_source(name_, "copy.cu", {}), "copy"),
                                        bytes_of(node.input_dtypes[0], num_elements(node.input_shapes[0])));
  }

 private:
  std::string name_, op_;
};

}  // namespace

std::vector<const KernelDef*> pointwise_kernels() {
  static const std::vector<std::unique_ptr<KernelDef>> defs = [] {
    std::vector<std::unique_ptr<KernelDef>> list;
    for (const cpu::ref::Scalar& scalar : cpu::ref::scalars())
      if (scalar.inputs == 1) list.push_back(std::make_unique<PointwiseDef>(std::string(scalar.name), unary));
    list.push_back(std::make_unique<PointwiseDef>("bitwise_not", unary));
    for (const char* op : {"add",   "sub",         "mul",        "div",         "mod",           "min",         "max",
                           "equal", "less",        "less_equal", "greater",     "greater_equal", "and",         "or",
                           "xor",   "bitwise_and", "bitwise_or", "bitwise_xor", "shift_left",    "shift_right", "prelu"})
      list.push_back(std::make_unique<PointwiseDef>(op, binary));
    list.push_back(std::make_unique<PointwiseDef>("pow", power));
    list.push_back(std::make_unique<PointwiseDef>("where", where));
    list.push_back(std::make_unique<PointwiseDef>("clip", clip));
    list.push_back(std::make_unique<PointwiseDef>("cast", cast));
    for (const char* op : {"bitcast", "identity", "reshape"}) list.push_back(std::make_unique<CopyDef>(op));
    return list;
  }();
  std::vector<const KernelDef*> kernels;
  for (const auto& def : defs) kernels.push_back(def.get());
  return kernels;
}

}  // namespace tokamak::cuda
