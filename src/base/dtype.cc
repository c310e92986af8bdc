#include "base/dtype.h"

#include <array>

#include "base/error.h"

namespace tokamak {
namespace {

struct Info {
  const char* name;
  int bits;
  char kind;  // f float, i signed, u unsigned, b bool, c complex, s string
};

constexpr std::array<Info, kNumDTypes> kInfo = {{
    {"f32", 32, 'f'},       {"f16", 16, 'f'},   {"bf16", 16, 'f'},      {"f64", 64, 'f'},   {"i8", 8, 'i'},     {"i16", 16, 'i'},
    {"i32", 32, 'i'},       {"i64", 64, 'i'},   {"u8", 8, 'u'},         {"u16", 16, 'u'},   {"u32", 32, 'u'},   {"u64", 64, 'u'},
    {"bool", 8, 'b'},       {"i4", 4, 'i'},     {"u4", 4, 'u'},         {"i2", 2, 'i'},     {"u2", 2, 'u'},     {"f8e4m3fn", 8, 'f'},
    {"f8e4m3fnuz", 8, 'f'}, {"f8e5m2", 8, 'f'}, {"f8e5m2fnuz", 8, 'f'}, {"f8e8m0", 8, 'f'}, {"f4e2m1", 4, 'f'}, {"c64", 64, 'c'},
    {"c128", 128, 'c'},     {"str", 0, 's'},
}};

const Info& info(DType dtype) { return kInfo[static_cast<size_t>(dtype)]; }

}  // namespace

const char* to_string(DType dtype) { return info(dtype).name; }

std::optional<DType> parse_dtype(std::string_view text) {
  for (int i = 0; i < kNumDTypes; ++i)
    if (text == kInfo[i].name) return static_cast<DType>(i);
  return std::nullopt;
}

int bits_of(DType dtype) { return info(dtype).bits; }
bool is_float(DType dtype) { return info(dtype).kind == 'f'; }
bool is_integer(DType dtype) { return info(dtype).kind == 'i' || info(dtype).kind == 'u'; }
bool is_signed_integer(DType dtype) { return info(dtype).kind == 'i'; }

int64_t bytes_of(DType dtype, int64_t count) {
  if (dtype == DType::String) fail(ErrorCode::InvalidArgument, "a string tensor has no fixed size in bytes");
  int64_t bits;
  if (count < 0 || __builtin_mul_overflow(count, int64_t{bits_of(dtype)}, &bits) || bits > INT64_MAX - 7)
    fail(ErrorCode::OutOfRange, "a tensor of {} elements of {} does not fit in 64 bits", count, to_string(dtype));
  return (bits + 7) / 8;
}

}  // namespace tokamak
