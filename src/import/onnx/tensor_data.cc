#include "import/onnx/tensor_data.h"

#include <charconv>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "import/onnx/import.h"

namespace tokamak::onnx {
namespace {

constexpr DType kDTypes[] = {DType::F32, DType::F32,    DType::U8,     DType::I8,       DType::U16,        DType::I16,    DType::I32,
                             DType::I64, DType::String, DType::Bool,   DType::F16,      DType::F64,        DType::U32,    DType::U64,
                             DType::C64, DType::C128,   DType::BF16,   DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ,
                             DType::U4,  DType::I4,     DType::F4E2M1, DType::F8E8M0,   DType::U2,         DType::I2};
constexpr int64_t kNumDataTypes = std::size(kDTypes);
constexpr int64_t kMaxSparseBytes = int64_t{1} << 30;

std::string label(const TensorProto& proto) { return fmt::format("tensor \"{}\" (at byte {})", proto.name, proto.offset); }

// The field that holds typed data of a dtype, by onnx.proto's comments.
int typed_field(DType dtype) {
  switch (dtype) {
    case DType::F32:
    case DType::C64: return 4;
    case DType::String: return 6;
    case DType::I64: return 7;
    case DType::F64:
    case DType::C128: return 10;
    case DType::U32:
    case DType::U64: return 11;
    default: return 5;  // int32_data: every type of 32 bits and less
  }
}

Tensor typed_tensor(const TensorProto& proto, DType dtype, const Shape& shape, int64_t count) {
  // Every element takes a byte of the message at least, four packed 2-bit ones at best: refuse before allocating for a lie.
  if (count > 4 * static_cast<int64_t>(proto.body.size()))
    fail(ErrorCode::Corrupt, "{}: shape {} wants {} elements, the file holds fewer", label(proto), to_string(shape), count);
  Tensor tensor = Tensor::empty(dtype, shape);
  const int field = typed_field(dtype);
  int64_t written = 0;  // bytes, or strings
  const int64_t size = tensor.size_bytes();
  char* out = static_cast<char*>(tensor.raw());
  const int element = dtype == DType::C64 ? 4 : dtype == DType::C128 ? 8 : dtype == DType::String ? 0 : std::max(1, bits_of(dtype) / 8);
  const auto put = [&](uint64_t value) {  // little-endian hosts only, as everywhere here
    if (written + element > size)
      fail(ErrorCode::Corrupt, "{}: more data than shape {} of {} holds", label(proto), to_string(shape), to_string(dtype));
    std::memcpy(out + written, &value, element);
    written += element;
  };
  WireReader reader(proto.body, proto.offset);
  for (Field f; reader.next(f);) {
    if (f.number != static_cast<uint32_t>(field)) continue;
    if (field == 4) {
      for_each_fixed32(f, put);
    } else if (field == 10) {
      for_each_fixed64(f, put);
    } else if (field == 6) {
      if (written >= count) fail(ErrorCode::Corrupt, "{}: more strings than shape {} holds", label(proto), to_string(shape));
      tensor.strings()[written++] = std::string(f.as_text());
    } else {
      for_each_varint(f, put);
    }
  }
  const int64_t wanted = dtype == DType::String ? count : size;
  if (written != wanted)
    fail(ErrorCode::Corrupt, "{}: shape {} of {} wants {} {}, found {}", label(proto), to_string(shape), to_string(dtype), wanted,
         dtype == DType::String ? "strings" : "bytes", written);
  return tensor;
}

Tensor raw_tensor(DType dtype, const Shape& shape, Bytes bytes, const std::shared_ptr<const void>& owner) {
  const size_t alignment = std::max<size_t>(1, std::min(bits_of(dtype) / 8, 8));
  const bool aligned = reinterpret_cast<uintptr_t>(bytes.data()) % alignment == 0;
  if (owner && aligned && !bytes.empty()) return Tensor::view(dtype, shape, bytes.data(), owner);
  Tensor tensor = Tensor::empty(dtype, shape);
  if (!bytes.empty()) std::memcpy(tensor.raw(), bytes.data(), bytes.size());
  return tensor;
}

int64_t parse_number(Text text, const char* key, const TensorProto& proto) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0)
    fail(ErrorCode::Corrupt, "{}: external data {} '{}' is not a number of bytes", label(proto), key, text);
  return value;
}

const std::shared_ptr<const MappedFile>& external_file(const TensorProto& proto, Text location, TensorSource& source) {
  namespace fs = std::filesystem;
  if (auto found = source.files.find(location); found != source.files.end()) return found->second;
  const auto refuse = [&](const char* why) {
    fail(ErrorCode::Corrupt, "{}: external data file '{}' {}; it must lie in the model's folder or below", label(proto), location, why);
  };
  if (source.folder.empty())
    fail(ErrorCode::Unsupported, "{}: external data file '{}' cannot be found for a model in memory; import the model from a file",
         label(proto), location);
  if (location.empty()) refuse("has no name");
  if (location.find('\0') != Text::npos) refuse("has a zero byte in its name");
  const fs::path relative{std::string(location)};
  if (relative.is_absolute()) refuse("is an absolute path");
  for (const auto& part : relative)
    if (part == "..") refuse("leaves the folder with '..'");
  std::error_code error;
  const fs::path folder = fs::canonical(source.folder, error);
  if (error) fail(ErrorCode::NotFound, "cannot open the model's folder '{}': {}", source.folder, error.message());
  const fs::path path = fs::weakly_canonical(folder / relative, error);
  if (error) fail(ErrorCode::Io, "{}: cannot follow external data path '{}': {}", label(proto), location, error.message());
  const auto [end, rest] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  if (end != folder.end()) refuse("is a link out of the folder");
  try {
    return source.files.emplace(std::string(location), MappedFile::open(path.string())).first->second;
  } catch (const Error& e) {
    fail(e.code(), "{}: external data: {}", label(proto), e.what());
  }
}

Tensor external_tensor(const TensorProto& proto, DType dtype, const Shape& shape, int64_t size, TensorSource& source) {
  Text location;
  int64_t offset = 0;
  std::optional<int64_t> length;
  for (const auto& [key, value] : proto.external_data) {
    if (key == "location") location = value;
    if (key == "offset") offset = parse_number(value, "offset", proto);
    if (key == "length") length = parse_number(value, "length", proto);
  }
  const auto& file = external_file(proto, location, source);
  if (length && *length != size)
    fail(ErrorCode::Corrupt, "{}: shape {} of {} takes {} bytes, external data has length {}", label(proto), to_string(shape),
         to_string(dtype), size, *length);
  if (offset > file->size_bytes() || size > file->size_bytes() - offset)
    fail(ErrorCode::Corrupt, "{}: bytes {} to {} lie outside external data file '{}' of {} bytes", label(proto), offset,
         static_cast<uint64_t>(offset) + size, location, file->size_bytes());
  return raw_tensor(dtype, shape, file->bytes().subspan(offset, size), file);
}

}  // namespace

DType dtype_from_onnx(int64_t data_type, const std::string& where) {
  if (data_type <= 0 || data_type >= kNumDataTypes)
    fail(ErrorCode::Corrupt, "{} has {} data type {}; known types are 1 to {}", where, data_type == 0 ? "the undefined" : "an unknown",
         data_type, kNumDataTypes - 1);
  return kDTypes[data_type];
}

Tensor make_tensor(const TensorProto& proto, TensorSource& source) {
  const DType dtype = dtype_from_onnx(proto.data_type, label(proto));
  if (proto.is_segment)
    fail(ErrorCode::Unsupported, "{}: tensors in segments are not supported; save the model with whole tensors", label(proto));
  int64_t count = 0, size = 0;
  try {
    count = num_elements(proto.dims);
    if (dtype != DType::String) size = bytes_of(dtype, count);
  } catch (const Error& e) {
    fail(e.code(), "{}: {}", label(proto), e.what());
  }
  const Shape shape(proto.dims);
  if (dtype != DType::String && count > (int64_t{1} << 58))
    fail(ErrorCode::OutOfRange, "{}: shape {} is too large", label(proto), to_string(shape));
  if (proto.is_external) {
    if (dtype == DType::String) fail(ErrorCode::Corrupt, "{}: strings cannot be external data", label(proto));
    return external_tensor(proto, dtype, shape, size, source);
  }
  if (!proto.raw_data) return typed_tensor(proto, dtype, shape, count);
  if (dtype == DType::String) fail(ErrorCode::Corrupt, "{}: strings cannot be raw data", label(proto));
  if (static_cast<int64_t>(proto.raw_data->size()) != size)
    fail(ErrorCode::Corrupt, "{}: shape {} of {} takes {} bytes, raw_data has {}", label(proto), to_string(shape), to_string(dtype), size,
         proto.raw_data->size());
  return raw_tensor(dtype, shape, *proto.raw_data, source.owner);
}

Tensor make_tensor(const SparseTensorProto& proto, TensorSource& source) {
  const Tensor values = make_tensor(proto.values, source);
  const Tensor indices = make_tensor(proto.indices, source);
  const std::string where = "sparse " + label(proto.values);
  const int64_t count = num_elements(proto.dims);
  const int bits = bits_of(values.dtype());
  if (bits < 8)
    fail(ErrorCode::Unsupported, "{}: sparse tensors of {} are not supported; store it dense", where, to_string(values.dtype()));
  if (indices.dtype() != DType::I64 || values.rank() != 1)
    fail(ErrorCode::Corrupt, "{}: values must have one dimension and indices must be i64", where);
  const int64_t n = values.count(), rank = static_cast<int64_t>(proto.dims.size());
  const bool linear = indices.rank() == 1;
  if (!(linear && indices.count() == n) && !(indices.rank() == 2 && indices.dim(0) == n && indices.dim(1) == rank))
    fail(ErrorCode::Corrupt, "{}: indices have shape {}, expected [{}] or [{},{}]", where, to_string(indices.shape()), n, n, rank);
  if (count > kMaxSparseBytes / (bits / 8))
    fail(ErrorCode::ResourceExhausted, "{}: shape {} would take more than 1 GiB dense", where, to_string(Shape(proto.dims)));
  Tensor dense = Tensor::zeros(values.dtype(), Shape(proto.dims));
  for (int64_t i = 0; i < n; ++i) {
    int64_t at = linear ? indices.int_at(i) : 0;
    if (!linear) {
      for (int64_t d = 0; d < rank; ++d) {
        const int64_t index = indices.int_at(i * rank + d);
        if (index < 0 || index >= proto.dims[d])
          fail(ErrorCode::Corrupt, "{}: index {} is outside dimension {} of {}", where, index, d, proto.dims[d]);
        at = at * proto.dims[d] + index;
      }
    }
    if (at < 0 || at >= count) fail(ErrorCode::Corrupt, "{}: index {} is outside its {} elements", where, at, count);
    std::memcpy(static_cast<char*>(dense.raw()) + at * (bits / 8), static_cast<const char*>(values.raw()) + i * (bits / 8), bits / 8);
  }
  return dense;
}

Tensor read_tensor_proto(std::span<const std::byte> bytes) {
  TensorSource source;
  return make_tensor(parse_tensor(bytes), source);
}

}  // namespace tokamak::onnx
