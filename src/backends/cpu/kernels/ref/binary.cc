// Binary pointwise ops with broadcasting. Floats are computed in double and rounded once; integers wrap.

#include <limits>

#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cpu/kernels/ref/scalar.h"

namespace tokamak::cpu::ref {
namespace {

template <class W>
using Function = W (*)(W, W);

double float_mod(double a, double b) {
  const double r = std::fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

Function<double> find_float(std::string_view op, bool c_mod) {
#define F(name, ...) \
  if (op == name) return [](double a, double b) -> double { return __VA_ARGS__; }
  F("add", a + b);
  F("sub", a - b);
  F("mul", a * b);
  F("div", a / b);
  F("min", std::isnan(a) ? a : std::isnan(b) ? b : std::min(a, b));
  F("max", std::isnan(a) ? a : std::isnan(b) ? b : std::max(a, b));
  F("equal", a == b);
  F("less", a < b);
  F("less_equal", a <= b);
  F("greater", a > b);
  F("greater_equal", a >= b);
  F("prelu", a >= 0 ? a : a * b);
#undef F
  if (op == "mod") return c_mod ? [](double a, double b) { return std::fmod(a, b); } : float_mod;
  return nullptr;
}

// W is int64_t or uint64_t: wide enough for every integer type; storing truncates, which is wrapping.
template <class W>
W divide(W a, W b) {
  if (b == 0) return 0;  // undefined in ONNX; must not trap
  if (std::is_signed_v<W> && b == static_cast<W>(-1)) return static_cast<W>(0 - static_cast<uint64_t>(a));
  return a / b;
}
template <class W>
W c_remainder(W a, W b) {
  if (b == 0 || (std::is_signed_v<W> && b == static_cast<W>(-1))) return 0;
  return a % b;
}
template <class W>
W floor_remainder(W a, W b) {
  const W r = c_remainder(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
template <class W>
W power(W base, W exponent) {
  if (exponent < 0) return base == 1 ? 1 : base == static_cast<W>(-1) ? (exponent % 2 == 0 ? 1 : -1) : 0;
  uint64_t result = 1, square = static_cast<uint64_t>(base);
  for (; exponent > 0; exponent /= 2, square *= square)
    if (exponent % 2 == 1) result *= square;
  return static_cast<W>(result);
}

template <class W>
Function<W> find_integer(std::string_view op, bool c_mod) {
  using U = uint64_t;
#define F(name, ...) \
  if (op == name) return [](W a, W b) -> W { return static_cast<W>(__VA_ARGS__); }
  F("add", U(a) + U(b));
  F("sub", U(a) - U(b));
  F("mul", U(a) * U(b));
  F("div", divide(a, b));
  F("min", std::min(a, b));
  F("max", std::max(a, b));
  F("equal", a == b);
  F("less", a < b);
  F("less_equal", a <= b);
  F("greater", a > b);
  F("greater_equal", a >= b);
  F("and", a != 0 && b != 0);
  F("or", a != 0 || b != 0);
  F("xor", (a != 0) != (b != 0));
  F("bitwise_and", a & b);
  F("bitwise_or", a | b);
  F("bitwise_xor", a ^ b);
  F("shift_left", U(b) > 63 ? 0 : U(a) << U(b));
  F("shift_right", U(b) > 63 ? (a < 0 ? -1 : 0) : a >> U(b));
  F("prelu", a >= 0 ? U(a) : U(a) * U(b));
#undef F
  if (op == "mod") return c_mod ? c_remainder<W> : floor_remainder<W>;
  return nullptr;
}

template <class T, class W>
RunFunction run_binary(Function<W> f, const NodeView& node) {
  const bool to_bool = node.output_dtypes[0] == DType::Bool;
  const Shape shape = node.output_shapes[0];
  const std::array<std::vector<int64_t>, 3> strides{broadcast_strides(node.input_shapes[0], shape),
                                                    broadcast_strides(node.input_shapes[1], shape), strides_of(shape)};
  return [f, to_bool, shape, strides](const RunArgs& args) {
    for_each_row(shape, strides, [&](const auto& at, const auto& step, int64_t count) {
      const T* a = args.inputs[0].data<T>() + at[0];
      const T* b = args.inputs[1].data<T>() + at[1];
      for (int64_t i = 0; i < count; ++i) {
        const W y = f(static_cast<W>(a[i * step[0]]), static_cast<W>(b[i * step[1]]));
        if (to_bool) args.outputs[0].data<uint8_t>()[at[2] + i * step[2]] = y != 0;
        else if constexpr (kIsFloat<T>) args.outputs[0].data<T>()[at[2] + i * step[2]] = store<T>(y);
        else args.outputs[0].data<T>()[at[2] + i * step[2]] = static_cast<T>(y);
      }
    });
  };
}

// Base and exponent may differ in type; the result has the base's.
RunFunction prepare_pow(const NodeView& node) {
  const Shape shape = node.output_shapes[0];
  const std::array<std::vector<int64_t>, 3> strides{broadcast_strides(node.input_shapes[0], shape),
                                                    broadcast_strides(node.input_shapes[1], shape), strides_of(shape)};
  RunFunction run;
  visit_number(node.input_dtypes[0], "pow", [&](auto base_tag) {
    using T = typename decltype(base_tag)::type;
    run = [=](const RunArgs& args) {
      visit_number(args.inputs[1].dtype(), "pow", [&](auto exponent_tag) {
        using E = typename decltype(exponent_tag)::type;
        for_each_row(shape, strides, [&](const auto& at, const auto& step, int64_t count) {
          const T* a = args.inputs[0].data<T>() + at[0];
          const E* b = args.inputs[1].data<E>() + at[1];
          T* y = args.outputs[0].data<T>() + at[2];
          for (int64_t i = 0; i < count; ++i) {
            if constexpr (!kIsFloat<T> && !kIsFloat<E>) {
              using W = Accumulator<T>;
              y[i * step[2]] = static_cast<T>(power<W>(static_cast<W>(a[i * step[0]]), static_cast<W>(b[i * step[1]])));
            } else {
              y[i * step[2]] = store<T>(std::pow(load_double(a[i * step[0]]), load_double(b[i * step[1]])));
            }
          }
        });
      });
    };
  });
  return run;
}

RunFunction prepare_string_equal(const NodeView& node) {
  const Shape shape = node.output_shapes[0];
  const std::array<std::vector<int64_t>, 3> strides{broadcast_strides(node.input_shapes[0], shape),
                                                    broadcast_strides(node.input_shapes[1], shape), strides_of(shape)};
  return [shape, strides](const RunArgs& args) {
    for_each_row(shape, strides, [&](const auto& at, const auto& step, int64_t count) {
      for (int64_t i = 0; i < count; ++i)
        args.outputs[0].data<uint8_t>()[at[2] + i * step[2]] =
            args.inputs[0].strings()[at[0] + i * step[0]] == args.inputs[1].strings()[at[1] + i * step[1]];
    });
  };
}

RunFunction prepare_binary(const NodeView& node) {
  const std::string_view op = node.node->op().name;
  const DType dtype = node.input_dtypes[0];
  if (op == "pow") return prepare_pow(node);
  if (dtype != node.input_dtypes[1])
    fail_node(node, ErrorCode::InvalidArgument, "operands differ in type: {} and {}", to_string(dtype), to_string(node.input_dtypes[1]));
  if (dtype == DType::String && op == "equal") return prepare_string_equal(node);
  const bool c_mod = node.attrs().get_bool("fmod", false);
  const auto reject = [&]() { fail_node(node, ErrorCode::Unsupported, "not defined for {}", to_string(dtype)); };
  if (dtype == DType::Bool) {
    const Function<uint64_t> f = find_integer<uint64_t>(op, c_mod);
    if (f == nullptr) reject();
    return run_binary<uint8_t, uint64_t>(f, node);
  }
  RunFunction run;
  visit_number(dtype, "binary op", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using W = Accumulator<T>;
    Function<W> f;
    if constexpr (kIsFloat<T>) f = find_float(op, c_mod);
    else f = find_integer<W>(op, c_mod);
    if (f == nullptr) reject();
    run = run_binary<T, W>(f, node);
  });
  return run;
}

}  // namespace

KernelList binary_kernels() {
  KernelList list;
  for (const char* op : {"add",         "sub",        "mul",         "div",        "pow",           "mod",  "min", "max",
                         "equal",       "less",       "less_equal",  "greater",    "greater_equal", "and",  "or",  "xor",
                         "bitwise_and", "bitwise_or", "bitwise_xor", "shift_left", "shift_right",   "prelu"})
    list.push_back(define(op, prepare_binary, kInPlace));
  return list;
}

}  // namespace tokamak::cpu::ref
