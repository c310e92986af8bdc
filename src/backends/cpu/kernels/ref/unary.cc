// Unary pointwise ops: floats through the scalar table in double, rounded once; integers and booleans exactly.

#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cpu/kernels/ref/scalar.h"

namespace tokamak::cpu::ref {
namespace {

template <class T>
using IntegerFunction = T (*)(T);

template <class T>
IntegerFunction<T> find_integer(std::string_view op) {
  if (op == "abs")
    return [](T x) { return static_cast<T>(std::is_signed_v<T> && x < 0 ? T(0) - static_cast<std::make_unsigned_t<T>>(x) : x); };
  if (op == "neg") return [](T x) { return static_cast<T>(T(0) - static_cast<std::make_unsigned_t<T>>(x)); };
  if (op == "sign") return [](T x) { return static_cast<T>((x > 0) - (x < 0)); };
  if (op == "relu") return [](T x) { return x < 0 ? T(0) : x; };
  if (op == "bitwise_not") return [](T x) { return static_cast<T>(~x); };
  if (op == "ceil" || op == "floor" || op == "round") return [](T x) { return x; };
  return nullptr;
}

RunFunction prepare_unary(const NodeView& node) {
  const std::string_view op = node.node->op().name;
  const DType in = node.input_dtypes[0], out = node.output_dtypes[0];
  if (in == DType::Bool) {
    if (op != "not") fail_node(node, ErrorCode::Unsupported, "bool input");
    return [](const RunArgs& args) {
      const uint8_t* x = args.inputs[0].data<uint8_t>();
      uint8_t* y = args.outputs[0].data<uint8_t>();
      for (int64_t i = 0; i < args.outputs[0].count(); ++i) y[i] = x[i] == 0;
    };
  }
  RunFunction run;
  if (is_integer(in)) {
    visit_integer(in, "unary op", [&](auto tag) {
      using T = typename decltype(tag)::type;
      const IntegerFunction<T> f = find_integer<T>(op);
      if (f == nullptr) fail_node(node, ErrorCode::Unsupported, "{} input; expected a float type", to_string(in));
      run = [f](const RunArgs& args) {
        const T* x = args.inputs[0].data<T>();
        T* y = args.outputs[0].data<T>();
        for (int64_t i = 0; i < args.outputs[0].count(); ++i) y[i] = f(x[i]);
      };
    });
    return run;
  }
  const Scalar* scalar = find_scalar(op);
  if (scalar == nullptr) fail_node(node, ErrorCode::Unsupported, "{} input; expected an integer type", to_string(in));
  const std::vector<double> parameters = scalar_parameters(*scalar, node.attrs());
  if (bits_of(in) <= 8) {  // isnan and isinf of eight-bit floats
    return [scalar, parameters](const RunArgs& args) {
      double operands[3] = {};
      std::copy(parameters.begin(), parameters.end(), operands + 1);
      std::vector<double> values = to_doubles(args.inputs[0]);
      for (int64_t i = 0; i < args.outputs[0].count(); ++i) {
        operands[0] = values[i];
        args.outputs[0].data<uint8_t>()[i] = scalar->function(operands) != 0;
      }
    };
  }
  visit_float(in, "unary op", [&](auto tag) {
    using T = typename decltype(tag)::type;
    run = [function = scalar->function, parameters, to_bool = out == DType::Bool](const RunArgs& args) {
      double operands[3] = {};
      std::copy(parameters.begin(), parameters.end(), operands + 1);
      const T* x = args.inputs[0].data<T>();
      const int64_t count = args.outputs[0].count();
      for (int64_t i = 0; i < count; ++i) {
        operands[0] = load_double(x[i]);
        const double y = function(operands);
        if (to_bool) args.outputs[0].data<uint8_t>()[i] = y != 0;
        else args.outputs[0].data<T>()[i] = store<T>(y);
      }
    };
  });
  return run;
}

}  // namespace

KernelList unary_kernels() {
  KernelList list;
  for (const Scalar& scalar : scalars())
    if (scalar.inputs == 1) list.push_back(define(scalar.name, prepare_unary, kInPlace));
  list.push_back(define("bitwise_not", prepare_unary, kInPlace));
  return list;
}

}  // namespace tokamak::cpu::ref
