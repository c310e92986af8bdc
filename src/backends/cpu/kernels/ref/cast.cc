// cast between all types. Floats to integers truncate toward zero and saturate at 32 and 64 bits; narrower integers take the low bits of
// that, as C compilers do. Anything to bool is != 0.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>

#include "backends/cpu/kernels/ref/ref.h"
#include "base/small_float.h"

namespace tokamak::cpu::ref {
namespace {

int64_t to_integer(double v, DType to) {
  if (std::isnan(v)) return 0;
  const auto saturate = [&](double lo, double hi, int64_t low, int64_t high) {
    return v <= lo ? low : v >= hi ? high : static_cast<int64_t>(v);
  };
  switch (to) {
    case DType::I64: return saturate(-0x1p63, 0x1p63, INT64_MIN, INT64_MAX);
    case DType::U64:
      return v <= -1 ? saturate(-0x1p63, 0x1p63, INT64_MIN, INT64_MAX) : v >= 0x1p64 ? -1 : static_cast<int64_t>(static_cast<uint64_t>(v));
    case DType::U32: return saturate(-0x1p63, 0x1p32, INT64_MIN, 0xffffffff);
    default: return saturate(-0x1p31, 0x1p31, INT32_MIN, INT32_MAX);
  }
}

struct Number {  // exactly one of the two is meaningful
  bool is_integer;
  double real;
  int64_t integer;  // bits of a uint64 when the source is one
  bool is_unsigned;
};

double as_double(const Number& n) {
  return !n.is_integer ? n.real : n.is_unsigned ? static_cast<double>(static_cast<uint64_t>(n.integer)) : static_cast<double>(n.integer);
}

Number parse(const std::string& text, DType to) {
  if (is_integer(to)) {
    int64_t integer = 0;
    const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
    const auto [end, status] = std::from_chars(begin, text.data() + text.size(), integer);
    if (status == std::errc() && end == text.data() + text.size()) return {true, 0, integer, false};
  }
  char* end = nullptr;
  const double real = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') fail(ErrorCode::InvalidArgument, "[cast] \"{}\" is not a number", text.substr(0, 40));
  return {false, real, 0, false};
}

std::string print(const Tensor& in, int64_t i) {
  if (in.dtype() == DType::Bool) return in.int_at(i) ? "1" : "0";
  if (in.dtype() == DType::U64) return fmt::format("{}", in.data<uint64_t>()[i]);
  if (is_integer(in.dtype())) return fmt::format("{}", in.int_at(i));
  const double v = in.float_at(i);
  if (std::isnan(v)) return "NaN";
  if (std::isinf(v)) return v > 0 ? "INF" : "-INF";
  return in.dtype() == DType::F64 ? fmt::format("{}", v) : fmt::format("{}", static_cast<float>(v));
}

// A rounding of a positive scale to a power of two; ONNX's `round_mode`.
uint8_t to_e8m0(double v, const std::string& round_mode) {
  if (std::isnan(v)) return 255;
  if (std::isinf(v)) return 254;
  if (v <= 0) return 0;
  int exponent;
  const double fraction = std::frexp(v, &exponent);  // v = fraction * 2^exponent, fraction in [0.5, 1)
  int e = exponent - 1;
  if (round_mode == "up" ? fraction > 0.5 : round_mode == "nearest" ? fraction >= 0.75 : false) ++e;
  return static_cast<uint8_t>(std::clamp(e + 127, 0, 254));
}

void store_number(const Number& n, Tensor& out, int64_t o, bool saturate, const std::string& round_mode) {
  const DType to = out.dtype();
  switch (to) {
    case DType::F32: out.data<float>()[o] = static_cast<float>(as_double(n)); return;
    case DType::F64: out.data<double>()[o] = as_double(n); return;
    case DType::F16: out.data<Half>()[o] = Half(static_cast<float>(as_double(n))); return;
    case DType::BF16: out.data<BFloat16>()[o] = BFloat16(static_cast<float>(as_double(n))); return;
    case DType::Bool: out.data<uint8_t>()[o] = n.is_integer ? n.integer != 0 : n.real != 0; return;
    case DType::F8E8M0: out.data<uint8_t>()[o] = to_e8m0(as_double(n), round_mode); return;
    case DType::F8E4M3FN:
    case DType::F8E4M3FNUZ:
    case DType::F8E5M2:
    case DType::F8E5M2FNUZ: out.data<uint8_t>()[o] = float_to_small_float(to, static_cast<float>(as_double(n)), saturate); return;
    case DType::F4E2M1: {  // no NaN in this format: ONNX's cases expect -0 for it
      const double v = as_double(n);
      set_code(out, o, std::isnan(v) ? 8 : float_to_small_float(to, static_cast<float>(v), true));
      return;
    }
    default: break;
  }
  const int64_t integer = n.is_integer ? n.integer : to_integer(n.real, to);
  if (bits_of(to) < 8) return set_code(out, o, static_cast<uint8_t>(integer));
  visit_integer(to, "cast", [&](auto tag) {
    using T = typename decltype(tag)::type;
    out.data<T>()[o] = static_cast<T>(integer);
  });
}

bool has_fast_path(DType d) {
  return bits_of(d) >= 8 && (is_integer(d) || d == DType::F32 || d == DType::F64 || d == DType::F16 || d == DType::BF16);
}

template <class From, class To>
void convert(const From* x, To* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (kIsFloat<From> && !kIsFloat<To>) y[i] = static_cast<To>(to_integer(load_double(x[i]), DTypeOf<To>::value));
    else if constexpr (kIsFloat<To> && !kIsFloat<From>) y[i] = static_cast<To>(static_cast<Compute<To>>(x[i]));
    else if constexpr (kIsFloat<To>) y[i] = store<To>(load_double(x[i]));
    else y[i] = static_cast<To>(x[i]);
  }
}

RunFunction prepare_cast(const NodeView& node) {
  const DType from = node.input_dtypes[0], to = node.output_dtypes[0];
  if (from == DType::C64 || from == DType::C128 || to == DType::C64 || to == DType::C128)
    fail_node(node, ErrorCode::Unsupported, "complex numbers ({} to {})", to_string(from), to_string(to));
  if (from == to) return [](const RunArgs& args) { copy_all(args.inputs[0], args.outputs[0]); };
  if (has_fast_path(from) && has_fast_path(to)) {
    return [from, to](const RunArgs& args) {
      visit_number(from, "cast", [&](auto from_tag) {
        visit_number(to, "cast", [&](auto to_tag) {
          convert(args.inputs[0].data<typename decltype(from_tag)::type>(), args.outputs[0].data<typename decltype(to_tag)::type>(),
                  args.outputs[0].count());
        });
      });
    };
  }
  const bool saturate = node.attrs().get_bool("saturate", true);
  const std::string round_mode = node.attrs().get_string("round_mode", "up");
  return [from, to, saturate, round_mode](const RunArgs& args) {
    const Tensor& in = args.inputs[0];
    Tensor& out = args.outputs[0];
    for (int64_t i = 0; i < out.count(); ++i) {
      if (to == DType::String) out.strings()[i] = print(in, i);
      else if (from == DType::String) store_number(parse(in.strings()[i], to), out, i, saturate, round_mode);
      else if (is_integer(from) || from == DType::Bool)
        store_number({true, 0, in.int_at(i), from == DType::U64}, out, i, saturate, round_mode);
      else store_number({false, in.float_at(i), 0, false}, out, i, saturate, round_mode);
    }
  };
}

RunFunction prepare_bitcast(const NodeView&) {
  return [](const RunArgs& args) {
    if (args.inputs[0].size_bytes() > 0 && args.outputs[0].raw() != args.inputs[0].raw())
      std::memcpy(args.outputs[0].raw(), args.inputs[0].raw(), args.inputs[0].size_bytes());
  };
}

}  // namespace

KernelList cast_kernels() { return {define("cast", prepare_cast, kInPlace), define("bitcast", prepare_bitcast, kInPlace)}; }

}  // namespace tokamak::cpu::ref
