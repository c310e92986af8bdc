#pragma once
// Element types. Text names (`f32`, `i64`, ...) are used in the IR, in reports and on the command line.

#include <cstdint>
#include <optional>
#include <string_view>

namespace tokamak {

enum class DType : uint8_t {
  F32,
  F16,
  BF16,
  F64,
  I8,
  I16,
  I32,
  I64,
  U8,
  U16,
  U32,
  U64,
  Bool,
  I4,
  U4,
  I2,
  U2,  // packed, low nibble first, as ONNX stores them
  F8E4M3FN,
  F8E4M3FNUZ,
  F8E5M2,
  F8E5M2FNUZ,
  F8E8M0,
  F4E2M1,
  C64,
  C128,
  String,
};
inline constexpr int kNumDTypes = static_cast<int>(DType::String) + 1;

const char* to_string(DType dtype);
std::optional<DType> parse_dtype(std::string_view text);

int bits_of(DType dtype);      // 0 for String
bool is_float(DType dtype);    // f64 down to f4; not complex
bool is_integer(DType dtype);  // signed and unsigned, without Bool
bool is_signed_integer(DType dtype);

// Bytes that `count` densely packed elements take. Throws InvalidArgument for String.
int64_t bytes_of(DType dtype, int64_t count);

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::F32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::F64;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType value = DType::I8;
};
template <>
struct DTypeOf<int16_t> {
  static constexpr DType value = DType::I16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::I32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::I64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::U8;
};
template <>
struct DTypeOf<uint16_t> {
  static constexpr DType value = DType::U16;
};
template <>
struct DTypeOf<uint32_t> {
  static constexpr DType value = DType::U32;
};
template <>
struct DTypeOf<uint64_t> {
  static constexpr DType value = DType::U64;
};
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::Bool;
};
struct Half;
struct BFloat16;
template <>
struct DTypeOf<Half> {
  static constexpr DType value = DType::F16;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::BF16;
};

}  // namespace tokamak
