#include "server/http/json_tensor.h"

#include <cmath>
#include <limits>
#include <type_traits>

#include "base/half.h"
#include "server/kserve.h"

namespace tokamak::server::http {

using simdjson::dom::element;
using simdjson::dom::element_type;

namespace json_detail {

namespace {

constexpr size_t kKeptBytes = 1 << 20;  // a parser that grew beyond this is not kept

struct ThreadParser {
  simdjson::dom::parser parser;
  std::string text;  // rewritten, when there were NaNs
};

ThreadParser& thread_parser() {
  thread_local ThreadParser parser;
  return parser;
}

// Puts quotes around NaN, Infinity and -Infinity where they stand outside strings.
std::string quote_specials(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 64);
  bool is_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (is_string) {
      out += c;
      if (c == '\\' && i + 1 < text.size()) out += text[++i];
      else if (c == '"') is_string = false;
      continue;
    }
    std::string_view special;
    if (c == 'N' || c == 'I' || c == '-')
      for (const std::string_view name : {"NaN", "Infinity", "-Infinity"})
        if (text.substr(i).starts_with(name)) special = name;
    if (special.empty()) {
      is_string = c == '"';
      out += c;
      continue;
    }
    out.append("\"").append(special).append("\"");
    i += special.size() - 1;
  }
  return out;
}

simdjson::simdjson_result<element> try_parse(ThreadParser& thread, std::string_view text) {
  // A deeper document than the parser has room for is refused by it.
  if (text.size() > thread.parser.capacity() || thread.parser.max_depth() != kMaxJsonDepth)
    if (const auto error = thread.parser.allocate(std::max<size_t>(text.size(), 64 << 10), kMaxJsonDepth)) return error;
  return thread.parser.parse(text.data(), text.size());
}

}  // namespace

element parse(std::string_view text) {
  // Before the parser sees it: an empty body may have no address.
  if (text.empty()) fail(ErrorCode::InvalidArgument, "failed to parse the request JSON buffer: The document is empty.");
  ThreadParser& thread = thread_parser();
  auto result = try_parse(thread, text);
  if (result.error() && (text.find("NaN") != std::string_view::npos || text.find("Infinity") != std::string_view::npos)) {
    thread.text = quote_specials(text);
    result = try_parse(thread, thread.text);
  }
  if (result.error() == simdjson::DEPTH_ERROR)
    fail(ErrorCode::InvalidArgument, "failed to parse the request JSON buffer: it is nested more than {} deep", kMaxJsonDepth);
  if (result.error())
    fail(ErrorCode::InvalidArgument, "failed to parse the request JSON buffer: {}", simdjson::error_message(result.error()));
  return result.value_unsafe();
}

void done() {
  ThreadParser& thread = thread_parser();
  thread.text = {};
  if (thread.parser.capacity() > kKeptBytes) thread.parser = simdjson::dom::parser();
}

}  // namespace json_detail

namespace {

const char* kind_of(const element& value) {
  switch (value.type()) {
    case element_type::ARRAY: return "an array";
    case element_type::OBJECT: return "an object";
    case element_type::STRING: return "a string";
    case element_type::BOOL: return "a boolean";
    case element_type::NULL_VALUE: return "null";
    default: return "a number";
  }
}

std::string shown(const element& value) {
  std::string text = simdjson::minify(value);
  if (text.size() > 40) text = text.substr(0, 40) + "...";
  return text;
}

// Calls `take` with every value, arrays flattened. Depth is bounded by the parser.
template <class F>
void for_each_value(const element& data, F& take) {
  if (data.type() == element_type::ARRAY) {
    for (const element value : simdjson::dom::array(data.get_array().value_unsafe())) {
      if (value.type() == element_type::ARRAY) for_each_value(value, take);
      else take(value);
    }
  } else {
    take(data);
  }
}

// Writes values into `tensor` from the first on.
template <class T, class Convert>
void fill(std::string_view where, Tensor& tensor, const element& data, Convert&& convert) {
  const int64_t count = tensor.count();
  T* out = tensor.data<T>();
  int64_t i = 0;
  auto take = [&](const element& value) {
    if (i < count) out[i] = convert(value, i);
    ++i;
  };
  for_each_value(data, take);
  if (i != count)
    fail(ErrorCode::InvalidArgument, "{}: expected {} values in data by its shape {}, found {}", where, count, to_string(tensor.shape()),
         i);
}

[[noreturn]] void refuse(std::string_view where, const Tensor& tensor, const element& value, int64_t i) {
  fail(ErrorCode::InvalidArgument, "{}: value {} of data is {} ({}), which is no {}", where, i, kind_of(value), shown(value),
       kserve::datatype_name(tensor.dtype()));
}

template <class T>
void fill_integers(std::string_view where, Tensor& tensor, const element& data) {
  fill<T>(where, tensor, data, [&](const element& value, int64_t i) -> T {
    if (value.type() == element_type::INT64) {
      const int64_t number = value.get_int64().value_unsafe();
      if (std::in_range<T>(number)) return static_cast<T>(number);
    } else if (value.type() == element_type::UINT64) {
      const uint64_t number = value.get_uint64().value_unsafe();
      if (std::in_range<T>(number)) return static_cast<T>(number);
    }
    refuse(where, tensor, value, i);
  });
}

template <class T, class Narrow>
void fill_reals(std::string_view where, Tensor& tensor, const element& data, Narrow&& narrow) {
  fill<T>(where, tensor, data, [&](const element& value, int64_t i) -> T {
    switch (value.type()) {
      case element_type::DOUBLE: return narrow(value.get_double().value_unsafe());
      case element_type::INT64: return narrow(static_cast<double>(value.get_int64().value_unsafe()));
      case element_type::UINT64: return narrow(static_cast<double>(value.get_uint64().value_unsafe()));
      case element_type::STRING: {
        const std::string_view text = value.get_string().value_unsafe();
        constexpr double kInfinity = std::numeric_limits<double>::infinity();
        if (text == "NaN") return narrow(std::numeric_limits<double>::quiet_NaN());
        if (text == "Infinity") return narrow(kInfinity);
        if (text == "-Infinity") return narrow(-kInfinity);
        break;
      }
      default: break;
    }
    refuse(where, tensor, value, i);
  });
}

// To float with overflow to infinity, as Python's and C's conversions have it; without it the cast would be undefined.
float to_float(double value) {
  constexpr double kMax = std::numeric_limits<float>::max();
  if (std::isfinite(value) && std::abs(value) > kMax * (1 + 0x1p-25)) return value > 0 ? HUGE_VALF : -HUGE_VALF;
  return static_cast<float>(value);
}

void fill_strings(std::string_view where, Tensor& tensor, const element& data) {
  const int64_t count = tensor.count();
  int64_t i = 0;
  auto take = [&](const element& value) {
    if (value.type() != element_type::STRING) refuse(where, tensor, value, i);
    if (i < count) tensor.strings()[static_cast<size_t>(i)] = std::string(value.get_string().value_unsafe());
    ++i;
  };
  for_each_value(data, take);
  if (i != count)
    fail(ErrorCode::InvalidArgument, "{}: expected {} values in data by its shape {}, found {}", where, count, to_string(tensor.shape()),
         i);
}

}  // namespace

int64_t count_elements(const element& data) {
  int64_t count = 0;
  auto take = [&](const element&) { ++count; };
  for_each_value(data, take);
  return count;
}

Tensor read_elements(std::string_view where, DType dtype, Shape shape, const element& data) {
  // Counted before anything is allocated: a shape alone must not take memory.
  const int64_t expected = kserve::checked_elements(where, shape), found = count_elements(data);
  if (expected != found)
    fail(ErrorCode::InvalidArgument, "{}: expected {} values in data by its shape {}, found {}", where, expected, to_string(shape), found);
  Tensor tensor = Tensor::empty(dtype, std::move(shape));
  switch (dtype) {
    case DType::Bool:
      fill<uint8_t>(where, tensor, data, [&](const element& value, int64_t i) -> uint8_t {
        if (value.type() == element_type::BOOL) return value.get_bool().value_unsafe();
        if (value.type() == element_type::INT64)
          if (const int64_t number = value.get_int64().value_unsafe(); number == 0 || number == 1) return static_cast<uint8_t>(number);
        refuse(where, tensor, value, i);
      });
      break;
    case DType::I8: fill_integers<int8_t>(where, tensor, data); break;
    case DType::I16: fill_integers<int16_t>(where, tensor, data); break;
    case DType::I32: fill_integers<int32_t>(where, tensor, data); break;
    case DType::I64: fill_integers<int64_t>(where, tensor, data); break;
    case DType::U8: fill_integers<uint8_t>(where, tensor, data); break;
    case DType::U16: fill_integers<uint16_t>(where, tensor, data); break;
    case DType::U32: fill_integers<uint32_t>(where, tensor, data); break;
    case DType::U64: fill_integers<uint64_t>(where, tensor, data); break;
    case DType::F32: fill_reals<float>(where, tensor, data, to_float); break;
    case DType::F64: fill_reals<double>(where, tensor, data, [](double value) { return value; }); break;
    case DType::F16: fill_reals<uint16_t>(where, tensor, data, [](double value) { return float_to_half(to_float(value)); }); break;
    case DType::BF16: fill_reals<uint16_t>(where, tensor, data, [](double value) { return float_to_bfloat16(to_float(value)); }); break;
    case DType::String: fill_strings(where, tensor, data); break;
    default: fail(ErrorCode::Internal, "{} has dtype {}", where, to_string(dtype));
  }
  return tensor;
}

Parameter read_parameter(std::string_view name, const element& value) {
  switch (value.type()) {
    case element_type::BOOL: return value.get_bool().value_unsafe();
    case element_type::INT64: return value.get_int64().value_unsafe();
    case element_type::UINT64: return value.get_uint64().value_unsafe();
    case element_type::DOUBLE: return value.get_double().value_unsafe();
    case element_type::STRING: return std::string(value.get_string().value_unsafe());
    default: fail(ErrorCode::InvalidArgument, "parameter '{}' must be a boolean, a number or a string, found {}", name, kind_of(value));
  }
}

Parameters read_parameters(std::string_view where, const element& value) {
  simdjson::dom::object object;
  if (value.get_object().get(object)) fail(ErrorCode::InvalidArgument, "{}: parameters must be an object, found {}", where, kind_of(value));
  Parameters parameters;
  for (const auto field : object) parameters.insert_or_assign(std::string(field.key), read_parameter(field.key, field.value));
  return parameters;
}

}  // namespace tokamak::server::http
