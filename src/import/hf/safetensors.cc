#include "import/hf/safetensors.h"

#include <algorithm>
#include <cstring>

#include "import/hf/json.h"

namespace tokamak::hf {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // as the format's own library

std::optional<DType> dtype_of(const std::string& name) {
  static const std::map<std::string, DType> kNames = {
      {"F64", DType::F64}, {"F32", DType::F32}, {"F16", DType::F16},   {"BF16", DType::BF16},        {"I64", DType::I64},
      {"I32", DType::I32}, {"I16", DType::I16}, {"I8", DType::I8},     {"U64", DType::U64},          {"U32", DType::U32},
      {"U16", DType::U16}, {"U8", DType::U8},   {"BOOL", DType::Bool}, {"F8_E4M3", DType::F8E4M3FN}, {"F8_E5M2", DType::F8E5M2}};
  const auto found = kNames.find(name);
  return found == kNames.end() ? std::nullopt : std::optional(found->second);
}

struct Extent {
  uint64_t begin, end;
  const std::string* name;
};

// The tensors together cover the data exactly: no overlap, no gap, nothing behind the last.
void check_extents(std::vector<Extent> extents, uint64_t data_size, const std::string& what) {
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t at = 0;
  for (const Extent& e : extents) {
    if (e.begin < at)
      fail(ErrorCode::Corrupt, "{}: tensor \"{}\" begins at byte {} of the data, inside the one before it, which ends at {}", what, *e.name,
           e.begin, at);
    if (e.begin > at)
      fail(ErrorCode::Corrupt, "{}: bytes {} to {} of the data, before tensor \"{}\", belong to no tensor", what, at, e.begin, *e.name);
    at = e.end;
  }
  if (at != data_size)
    fail(ErrorCode::Corrupt, "{}: the tensors end at byte {} of the data, the file at {}; it is truncated or has bytes behind", what, at,
         data_size);
}

Shape shape_of(const JsonObject& entry) {
  const Json* list = entry.find("shape");
  if (list == nullptr || !list->is_array() || list->size() > 16) entry.wrong("shape", "a list of at most 16 sizes");
  Shape shape;
  for (const Json& d : *list) {
    if (!d.is_number_unsigned() || d.get<uint64_t>() > (uint64_t{1} << 48)) entry.wrong("shape", "a list of sizes from 0 to 2^48");
    shape.push_back(d.get<int64_t>());
  }
  return shape;
}

Extent extent_of(const JsonObject& entry, uint64_t data_size) {
  const Json* list = entry.find("data_offsets");
  if (list == nullptr || !list->is_array() || list->size() != 2 || !(*list)[0].is_number_unsigned() || !(*list)[1].is_number_unsigned())
    entry.wrong("data_offsets", "two byte offsets");
  const Extent e{(*list)[0].get<uint64_t>(), (*list)[1].get<uint64_t>(), nullptr};
  if (e.begin > e.end || e.end > data_size)
    fail(ErrorCode::Corrupt, "{}: data_offsets [{},{}] lie outside the file's {} bytes of data", entry.path(), e.begin, e.end, data_size);
  return e;
}

Tensor tensor_at(DType dtype, const Shape& shape, const std::byte* data, const std::shared_ptr<const void>& owner) {
  const auto alignment = static_cast<uintptr_t>(std::max(1, bits_of(dtype) / 8));
  if (owner != nullptr && reinterpret_cast<uintptr_t>(data) % alignment == 0) return Tensor::view(dtype, shape, data, owner);
  Tensor copy = Tensor::empty(dtype, shape);
  if (copy.size_bytes() > 0) std::memcpy(copy.raw(), data, copy.size_bytes());
  return copy;
}

}  // namespace

std::map<std::string, Tensor> read_safetensors(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                               const std::string& what) {
  uint64_t header_size = 0;
  if (bytes.size() < sizeof(header_size))
    fail(ErrorCode::Corrupt, "{}: {} bytes; a safetensors file begins with 8 bytes of header length", what, bytes.size());
  std::memcpy(&header_size, bytes.data(), sizeof(header_size));
  if (header_size > kMaxHeader || header_size > bytes.size() - sizeof(header_size))
    fail(ErrorCode::Corrupt, "{}: the header is said to have {} bytes, the file has {}; it is truncated, or no safetensors file", what,
         header_size, bytes.size());
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof(header_size), header_size);
  const auto data = bytes.subspan(sizeof(header_size) + header_size);
  const Json header = parse_json(text, what + ": header");
  std::map<std::string, Tensor> tensors;
  std::vector<Extent> extents;
  for (const auto& [name, value] : JsonObject(header, what + ": header").items()) {
    if (name == "__metadata__") continue;
    const JsonObject entry(value, fmt::format("{}: tensor \"{}\"", what, name));
    const std::string dtype_name = entry.text("dtype", "");
    const auto dtype = dtype_of(dtype_name);
    if (!dtype) fail(ErrorCode::Unsupported, "{}: dtype \"{}\" is not supported", entry.path(), dtype_name);
    const Shape shape = shape_of(entry);
    Extent extent = extent_of(entry, data.size());
    int64_t needed = 0;
    try {
      needed = bytes_of(*dtype, num_elements(shape));
    } catch (const Error& e) {
      fail(ErrorCode::Corrupt, "{}: {}", entry.path(), e.what());
    }
    if (static_cast<uint64_t>(needed) != extent.end - extent.begin)
      fail(ErrorCode::Corrupt, "{}: {}{} takes {} bytes, data_offsets [{},{}] give it {}", entry.path(), dtype_name, to_string(shape),
           needed, extent.begin, extent.end, extent.end - extent.begin);
    extent.name = &tensors.emplace(name, tensor_at(*dtype, shape, data.data() + extent.begin, owner)).first->first;
    extents.push_back(extent);
  }
  check_extents(std::move(extents), data.size(), what);
  return tensors;
}

std::map<std::string, Tensor> read_safetensors(const std::string& path) {
  const auto file = MappedFile::open(path);
  return read_safetensors(file->bytes(), file, path);
}

}  // namespace tokamak::hf
