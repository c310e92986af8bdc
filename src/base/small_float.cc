#include "base/small_float.h"

#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace tokamak {
namespace {

struct Format {
  int exponent_bits, mantissa_bits, bias;
  bool has_infinity;
  bool fnuz;     // one zero, NaN is 0x80
  int max_code;  // largest finite positive code
};

Format format_of(DType dtype) {
  switch (dtype) {
    case DType::F8E4M3FN: return {4, 3, 7, false, false, 0x7e};
    case DType::F8E4M3FNUZ: return {4, 3, 8, false, true, 0x7f};
    case DType::F8E5M2: return {5, 2, 15, true, false, 0x7b};
    case DType::F8E5M2FNUZ: return {5, 2, 16, false, true, 0x7f};
    case DType::F4E2M1: return {2, 1, 1, false, false, 0x7};
    default: fail(ErrorCode::InvalidArgument, "{} is not a small float", to_string(dtype));
  }
}

float decode_magnitude(const Format& f, int code) {
  const int exponent = code >> f.mantissa_bits, mantissa = code & ((1 << f.mantissa_bits) - 1);
  if (exponent == 0) return std::ldexp(static_cast<float>(mantissa), 1 - f.bias - f.mantissa_bits);
  return std::ldexp(static_cast<float>(mantissa + (1 << f.mantissa_bits)), exponent - f.bias - f.mantissa_bits);
}

}  // namespace

float small_float_to_float(DType dtype, uint8_t bits) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  if (dtype == DType::F8E8M0) return bits == 255 ? kNaN : std::ldexp(1.0f, int{bits} - 127);
  const Format f = format_of(dtype);
  const int sign_bit = 1 << (f.exponent_bits + f.mantissa_bits), code = bits & (sign_bit - 1);
  const bool negative = bits & sign_bit;
  if (f.fnuz && negative && code == 0) return kNaN;
  if (code > f.max_code) return f.has_infinity && code == f.max_code + 1 ? (negative ? -INFINITY : INFINITY) : kNaN;
  const float value = decode_magnitude(f, code);
  return negative ? -value : value;
}

uint8_t float_to_small_float(DType dtype, float value, bool saturate) {
  if (dtype == DType::F8E8M0) {
    if (std::isnan(value)) return 255;
    if (value <= 0) return 0;
    const int e = std::isinf(value) ? 127 : static_cast<int>(std::lround(std::log2(value)));
    return static_cast<uint8_t>(std::min(254, std::max(0, e + 127)));
  }
  const Format f = format_of(dtype);
  const int sign_bit = 1 << (f.exponent_bits + f.mantissa_bits);
  const bool negative = std::signbit(value);
  const int nan_code = f.fnuz ? sign_bit : (dtype == DType::F4E2M1 ? f.max_code : 0x7f);
  if (std::isnan(value)) return static_cast<uint8_t>(f.fnuz ? nan_code : nan_code | (negative ? sign_bit : 0));
  const float magnitude = std::fabs(value);
  // Codes are ordered like their values: find the neighbours, take the nearer, ties to the even code.
  int code = 0;
  for (int step = sign_bit >> 1; step > 0; step >>= 1)
    if (code + step <= f.max_code && decode_magnitude(f, code + step) <= magnitude) code += step;
  const float low = decode_magnitude(f, code);
  const float high = decode_magnitude(f, code + 1);  // past max_code: the value the format would have next
  if (magnitude - low > high - magnitude || (magnitude - low == high - magnitude && (code & 1))) ++code;
  if (code > f.max_code || std::isinf(magnitude)) {
    if (saturate || dtype == DType::F4E2M1) code = f.max_code;
    else if (f.has_infinity) code = f.max_code + 1;
    else return static_cast<uint8_t>(f.fnuz ? nan_code : nan_code | (negative ? sign_bit : 0));
  }
  if (f.fnuz && code == 0) return 0;
  return static_cast<uint8_t>(code | (negative ? sign_bit : 0));
}

}  // namespace tokamak
