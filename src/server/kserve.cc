#include "server/kserve.h"

#include <cstring>
#include <limits>
#include <utility>

#include "server/config.h"

namespace tokamak::server::kserve {

namespace {

Tensor read_strings(std::string_view where, Shape shape, int64_t count, std::span<const std::byte> bytes) {
  // Each element takes four bytes at least, so that a count that the bytes cannot hold allocates nothing.
  if (static_cast<uint64_t>(count) > bytes.size() / 4)
    fail(ErrorCode::InvalidArgument, "{} has {} BYTES elements by its shape {}, its {} bytes cannot hold them", where, count,
         to_string(shape), bytes.size());
  Tensor tensor = Tensor::empty(DType::String, std::move(shape));
  size_t at = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t length = 0;
    if (bytes.size() - at < sizeof(length))
      fail(ErrorCode::InvalidArgument, "{}: expected {} BYTES elements, the bytes end after {}", where, count, i);
    std::memcpy(&length, bytes.data() + at, sizeof(length));
    at += sizeof(length);
    if (bytes.size() - at < length)
      fail(ErrorCode::InvalidArgument, "{}: BYTES element {} has {} bytes by its length, {} are left", where, i, length, bytes.size() - at);
    tensor.strings()[static_cast<size_t>(i)].assign(reinterpret_cast<const char*>(bytes.data() + at), length);
    at += length;
  }
  if (at != bytes.size())
    fail(ErrorCode::InvalidArgument, "{}: {} bytes are left behind its {} BYTES elements", where, bytes.size() - at, count);
  return tensor;
}

template <class T>
T take_number(std::string_view name, const Parameter& value, std::string_view where) {
  if (const auto* number = std::get_if<int64_t>(&value); number && std::in_range<T>(*number)) return static_cast<T>(*number);
  if (const auto* number = std::get_if<uint64_t>(&value); number && std::in_range<T>(*number)) return static_cast<T>(*number);
  fail(ErrorCode::InvalidArgument, "{}parameter '{}' must be an integer from {} to {}", where, name, std::numeric_limits<T>::min(),
       std::numeric_limits<T>::max());
}

bool take_bool(std::string_view name, const Parameter& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag;
  fail(ErrorCode::InvalidArgument, "parameter '{}' must be a boolean", name);
}

}  // namespace

// The table has literals: they end with a zero.
const char* datatype_name(DType dtype) { return server::datatype_name(dtype).data(); }

std::optional<DType> parse_datatype(std::string_view name) { return server::parse_datatype(name); }

int64_t wire_size(const Tensor& tensor) {
  if (tensor.dtype() != DType::String) return tensor.size_bytes();
  int64_t size = 0;
  for (const std::string& text : tensor.strings()) size += 4 + static_cast<int64_t>(text.size());
  return size;
}

void write_wire(const Tensor& tensor, std::byte* dst) {
  if (tensor.dtype() != DType::String) {
    if (tensor.size_bytes() > 0) std::memcpy(dst, tensor.raw(), static_cast<size_t>(tensor.size_bytes()));
    return;
  }
  for (const std::string& text : tensor.strings()) {
    const auto length = static_cast<uint32_t>(text.size());
    std::memcpy(dst, &length, sizeof(length));
    std::memcpy(dst + sizeof(length), text.data(), text.size());
    dst += sizeof(length) + text.size();
  }
}

int64_t checked_elements(std::string_view where, const Shape& shape) {
  for (const int64_t dim : shape)
    if (dim < 0) fail(ErrorCode::InvalidArgument, "{}: shape {} has a negative dimension", where, to_string(shape));
  try {
    return num_elements(shape);
  } catch (const Error&) {
    fail(ErrorCode::InvalidArgument, "{}: shape {} has more elements than can be counted", where, to_string(shape));
  }
}

Tensor read_wire(std::string_view where, DType dtype, Shape shape, std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  const int64_t count = checked_elements(where, shape);
  if (dtype == DType::String) return read_strings(where, std::move(shape), count, bytes);
  const auto size = static_cast<uint64_t>(bits_of(dtype) / 8);
  if (static_cast<uint64_t>(count) > std::numeric_limits<int64_t>::max() / size || static_cast<uint64_t>(count) * size != bytes.size())
    fail(ErrorCode::InvalidArgument, "{}: expected {} elements of {} bytes by its shape {} and datatype {}, found {} bytes", where, count,
         size, to_string(shape), datatype_name(dtype), bytes.size());
  if (bytes.empty() || reinterpret_cast<uintptr_t>(bytes.data()) % size != 0) {
    Tensor tensor = Tensor::empty(dtype, std::move(shape));
    if (!bytes.empty()) std::memcpy(tensor.raw(), bytes.data(), bytes.size());
    return tensor;
  }
  return Tensor::view(dtype, std::move(shape), bytes.data(), std::move(owner));
}

void take_parameters(InferRequest& request, Parameters parameters, bool* enable_empty_final_response) {
  for (auto it = parameters.begin(); it != parameters.end();) {
    const auto& [name, value] = *it;
    if (name == "sequence_id") {
      if (const auto* text = std::get_if<std::string>(&value)) request.sequence.text = *text;
      else request.sequence.number = take_number<uint64_t>(name, value, "");
    } else if (name == "sequence_start") {
      request.sequence_start = take_bool(name, value);
    } else if (name == "sequence_end") {
      request.sequence_end = take_bool(name, value);
    } else if (name == "priority") {
      request.priority = take_number<uint64_t>(name, value, "");
    } else if (name == "timeout") {
      request.timeout_us = take_number<uint64_t>(name, value, "");
    } else if (name == "triton_enable_empty_final_response" && enable_empty_final_response) {
      *enable_empty_final_response = take_bool(name, value);
    } else if (name == "headers" || name == "binary_data_output" || name.starts_with("triton_")) {
      fail(ErrorCode::InvalidArgument, "parameter '{}' is reserved; the request's own parameters need other names", name);
    } else {
      ++it;
      continue;
    }
    it = parameters.erase(it);
  }
  request.parameters = std::move(parameters);
}

std::optional<SharedMemoryRange> take_shared_memory(std::string_view where, Parameters& parameters) {
  SharedMemoryRange range;
  bool has_size = false;
  for (const std::string_view name : {"shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"}) {
    const auto it = parameters.find(name);
    if (it == parameters.end()) continue;
    if (name == "shared_memory_region") {
      const auto* region = std::get_if<std::string>(&it->second);
      if (!region || region->empty()) fail(ErrorCode::InvalidArgument, "{}: parameter '{}' must be a region's name", where, name);
      range.region = *region;
    } else {
      const uint64_t number = take_number<uint64_t>(name, it->second, fmt::format("{}: ", where));
      if (name == "shared_memory_offset") range.offset = number;
      if (name == "shared_memory_byte_size") range.byte_size = number, has_size = true;
    }
    parameters.erase(it);
  }
  if (range.region.empty()) {
    if (has_size || range.offset != 0)
      fail(ErrorCode::InvalidArgument, "{}: an offset or a size in shared memory needs parameter 'shared_memory_region'", where);
    return std::nullopt;
  }
  if (!has_size) fail(ErrorCode::InvalidArgument, "{}: shared memory needs parameter 'shared_memory_byte_size'", where);
  return range;
}

int take_classification(std::string_view where, Parameters& parameters) {
  const auto it = parameters.find("classification");
  if (it == parameters.end()) return 0;
  const int count = take_number<int>("classification", it->second, fmt::format("{}: ", where));
  if (count < 1) fail(ErrorCode::InvalidArgument, "{}: 'classification' must be 1 or more, found {}", where, count);
  parameters.erase(it);
  return count;
}

}  // namespace tokamak::server::kserve
