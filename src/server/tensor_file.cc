#include "server/tensor_file.h"

#include <cstring>

#include "base/file.h"

namespace tokamak::server {

namespace {

Tensor read_strings(Shape shape, std::span<const std::byte> bytes, const std::string& path) {
  Tensor tensor = Tensor::empty(DType::String, std::move(shape));
  size_t at = 0;
  for (std::string& text : tensor.strings()) {
    uint32_t length = 0;
    if (bytes.size() - at < sizeof length) fail(ErrorCode::InvalidArgument, "'{}' ends within the lengths of its strings", path);
    std::memcpy(&length, bytes.data() + at, sizeof length);
    at += sizeof length;
    if (bytes.size() - at < length) fail(ErrorCode::InvalidArgument, "'{}' ends within a string", path);
    text.assign(reinterpret_cast<const char*>(bytes.data()) + at, length);
    at += length;
  }
  return tensor;
}

}  // namespace

Tensor read_tensor_file(DType dtype, Shape shape, const std::string& path, const char* what) {
  const auto file = MappedFile::open(path);
  if (dtype == DType::String) return read_strings(std::move(shape), file->bytes(), path);
  Tensor tensor = Tensor::empty(dtype, std::move(shape));
  if (file->size_bytes() < tensor.size_bytes())
    fail(ErrorCode::InvalidArgument, "{} '{}' has {} bytes, {} needs {}", what, path, file->size_bytes(), to_string(tensor.shape()),
         tensor.size_bytes());
  if (tensor.size_bytes() > 0) std::memcpy(tensor.raw(), file->bytes().data(), tensor.size_bytes());
  return tensor;
}

}  // namespace tokamak::server
