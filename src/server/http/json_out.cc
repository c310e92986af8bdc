#include "server/http/json_out.h"

#include <simdjson.h>

#include <charconv>
#include <cmath>

#include "base/half.h"

namespace tokamak::server::http {

namespace {

template <class T>
void append_digits(std::string& out, T value) {
  char text[32];
  const auto result = std::to_chars(text, text + sizeof(text), value);
  out.append(text, result.ptr);
}

template <class T>
void append_float(std::string& out, T value) {
  if (std::isfinite(value)) {
    const size_t begin = out.size();
    append_digits(out, value);
    // A whole number stays a float to whoever reads it.
    if (out.find_first_of(".e", begin) == std::string::npos) out += ".0";
  } else {
    out += std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
  }
}

// Length of the UTF-8 sequence at the begin of `text`; 0 when there is none.
size_t sequence_length(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t length = lead < 0x80 ? 1 : (lead >> 5) == 6 ? 2 : (lead >> 4) == 14 ? 3 : (lead >> 3) == 30 ? 4 : 0;
  return length != 0 && length <= text.size() && simdjson::validate_utf8(text.data(), length) ? length : 0;
}

template <class T, class Write>
void append_all(std::string& out, const Tensor& tensor, int64_t first, int64_t count, Write&& write) {
  const T* values = tensor.data<T>() + first;
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0) out += ',';
    write(values[i]);
  }
}

}  // namespace

void append_string(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  const bool is_utf8 = simdjson::validate_utf8(text.data(), text.size());
  out += '"';
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    switch (c) {
      case '"': out += "\\\""; continue;
      case '\\': out += "\\\\"; continue;
      case '\n': out += "\\n"; continue;
      case '\r': out += "\\r"; continue;
      case '\t': out += "\\t"; continue;
      default: break;
    }
    if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00";
      out += kHex[static_cast<unsigned char>(c) >> 4];
      out += kHex[c & 15];
    } else if (is_utf8 || static_cast<unsigned char>(c) < 0x80) {
      out += c;
    } else if (const size_t length = sequence_length(text.substr(i))) {
      out.append(text.substr(i, length));
      i += length - 1;
    } else {
      out += "\xEF\xBF\xBD";
    }
  }
  out += '"';
}

void append_number(std::string& out, int64_t value) { append_digits(out, value); }
void append_number(std::string& out, uint64_t value) { append_digits(out, value); }
void append_number(std::string& out, float value) { append_float(out, value); }
void append_number(std::string& out, double value) { append_float(out, value); }

void append_value(std::string& out, const Parameter& value) {
  if (const auto* flag = std::get_if<bool>(&value)) out += *flag ? "true" : "false";
  else if (const auto* text = std::get_if<std::string>(&value)) append_string(out, *text);
  else if (const auto* number = std::get_if<int64_t>(&value)) append_number(out, *number);
  else if (const auto* whole = std::get_if<uint64_t>(&value)) append_number(out, *whole);
  else if (const auto* real = std::get_if<double>(&value)) append_number(out, *real);
}

void append_shape(std::string& out, const Shape& shape) {
  out += '[';
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) out += ',';
    append_number(out, shape[i]);
  }
  out += ']';
}

void append_elements(std::string& out, const Tensor& tensor, int64_t first, int64_t count, std::string_view where) {
  const auto integer = [&](auto value) {
    if constexpr (std::is_signed_v<decltype(value)>) append_number(out, int64_t{value});
    else append_number(out, uint64_t{value});
  };
  const auto real = [&](auto value) { append_number(out, value); };
  switch (tensor.dtype()) {
    case DType::Bool: return append_all<uint8_t>(out, tensor, first, count, [&](uint8_t value) { out += value ? "true" : "false"; });
    case DType::I8: return append_all<int8_t>(out, tensor, first, count, integer);
    case DType::I16: return append_all<int16_t>(out, tensor, first, count, integer);
    case DType::I32: return append_all<int32_t>(out, tensor, first, count, integer);
    case DType::I64: return append_all<int64_t>(out, tensor, first, count, integer);
    case DType::U8: return append_all<uint8_t>(out, tensor, first, count, integer);
    case DType::U16: return append_all<uint16_t>(out, tensor, first, count, integer);
    case DType::U32: return append_all<uint32_t>(out, tensor, first, count, integer);
    case DType::U64: return append_all<uint64_t>(out, tensor, first, count, integer);
    case DType::F32: return append_all<float>(out, tensor, first, count, real);
    case DType::F64: return append_all<double>(out, tensor, first, count, real);
    case DType::F16: return append_all<uint16_t>(out, tensor, first, count, [&](uint16_t value) { real(half_to_float(value)); });
    case DType::BF16: return append_all<uint16_t>(out, tensor, first, count, [&](uint16_t value) { real(bfloat16_to_float(value)); });
    case DType::String:
      for (int64_t i = first; i < first + count; ++i) {
        const std::string& text = tensor.strings()[static_cast<size_t>(i)];
        if (!simdjson::validate_utf8(text.data(), text.size()))
          fail(ErrorCode::InvalidArgument, "{}: element {} is not UTF-8, ask for it with binary_data", where, i);
        if (i > first) out += ',';
        append_string(out, text);
      }
      return;
    default: fail(ErrorCode::Internal, "{} has dtype {}, which the protocol has no name for", where, to_string(tensor.dtype()));
  }
}

}  // namespace tokamak::server::http
