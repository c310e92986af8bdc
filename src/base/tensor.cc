#include "base/tensor.h"

#include <fmt/ranges.h>

#include <cstdlib>
#include <cstring>

#include "base/half.h"
#include "base/small_float.h"

namespace tokamak {

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ",")); }

int64_t num_elements(std::span<const int64_t> shape) {
  int64_t count = 1;
  bool is_empty = false;
  for (int64_t d : shape) {
    if (d < 0) fail(ErrorCode::OutOfRange, "negative dimension {} in shape [{}]", d, fmt::join(shape, ","));
    if (d == 0) is_empty = true;
  }
  if (is_empty) return 0;
  for (int64_t d : shape)
    if (__builtin_mul_overflow(count, d, &count) || count > (int64_t{1} << 62))
      fail(ErrorCode::OutOfRange, "shape [{}] has more elements than fit in 62 bits", fmt::join(shape, ","));
  return count;
}

Tensor Tensor::empty(DType dtype, Shape shape) {
  Tensor t;
  t.dtype_ = dtype;
  t.count_ = num_elements(shape);
  t.shape_ = std::move(shape);
  if (dtype == DType::String) {
    t.strings_ = std::make_shared<std::vector<std::string>>(t.count_);
    return t;
  }
  t.size_bytes_ = bytes_of(dtype, t.count_);
  const size_t rounded = (static_cast<size_t>(t.size_bytes_) + 127) / 64 * 64;  // never null, and one line of slack
  void* memory = std::aligned_alloc(64, rounded);
  if (memory == nullptr)
    fail(ErrorCode::ResourceExhausted, "cannot allocate {} bytes for a tensor {}{}", rounded, to_string(dtype), to_string(t.shape_));
  t.owner_ = std::shared_ptr<const void>(memory, [](const void* p) { std::free(const_cast<void*>(p)); });
  t.data_ = memory;
  return t;
}

Tensor Tensor::zeros(DType dtype, Shape shape) {
  Tensor t = empty(dtype, std::move(shape));
  if (t.data_) std::memset(t.data_, 0, t.size_bytes_);
  return t;
}

Tensor Tensor::packed(DType dtype, Shape shape, std::string layout, int64_t size_bytes) {
  Tensor t = empty(DType::U8, {size_bytes});
  t.dtype_ = dtype;
  t.count_ = num_elements(shape);
  t.shape_ = std::move(shape);
  t.layout_ = std::move(layout);
  return t;
}

Tensor Tensor::view(DType dtype, Shape shape, const void* data, std::shared_ptr<const void> owner) {
  Tensor t;
  t.dtype_ = dtype;
  t.count_ = num_elements(shape);
  t.shape_ = std::move(shape);
  t.size_bytes_ = bytes_of(dtype, t.count_);
  t.data_ = const_cast<void*>(data);
  t.owner_ = std::move(owner);
  return t;
}

Tensor Tensor::packed_view(DType dtype, Shape shape, std::string layout, const void* data, int64_t size_bytes,
                           std::shared_ptr<const void> owner) {
  Tensor t = view(DType::U8, {size_bytes}, data, std::move(owner));
  t.dtype_ = dtype;
  t.count_ = num_elements(shape);
  t.shape_ = std::move(shape);
  t.layout_ = std::move(layout);
  return t;
}

Tensor Tensor::clone() const {
  Tensor t = dtype_ == DType::String ? empty(dtype_, shape_) : packed(dtype_, shape_, layout_, size_bytes_);
  if (dtype_ == DType::String) *t.strings_ = *strings_;
  else if (size_bytes_ > 0) std::memcpy(t.data_, data_, size_bytes_);
  return t;
}

Tensor Tensor::reshaped(Shape shape) const {
  if (num_elements(shape) != count_)
    fail(ErrorCode::InvalidArgument, "cannot view {} ({} elements) as {}", to_string(shape_), count_, to_string(shape));
  CHECK(layout_.empty());
  Tensor t = *this;
  t.shape_ = std::move(shape);
  return t;
}

void Tensor::share_storage(const Tensor& from) {
  CHECK(from.dtype_ == dtype_ && from.count_ == count_);
  data_ = from.data_;
  owner_ = from.owner_;
  strings_ = from.strings_;
  size_bytes_ = from.size_bytes_;
}

int64_t Tensor::int_at(int64_t i) const {
  switch (dtype_) {
    case DType::I64: return data<int64_t>()[i];
    case DType::I32: return data<int32_t>()[i];
    case DType::I16: return data<int16_t>()[i];
    case DType::I8: return data<int8_t>()[i];
    case DType::U64: return static_cast<int64_t>(data<uint64_t>()[i]);
    case DType::U32: return data<uint32_t>()[i];
    case DType::U16: return data<uint16_t>()[i];
    case DType::U8:
    case DType::Bool: return data<uint8_t>()[i];
    case DType::I4: {
      const int v = (data<uint8_t>()[i / 2] >> (4 * (i & 1))) & 15;
      return v >= 8 ? v - 16 : v;
    }
    case DType::U4: return (data<uint8_t>()[i / 2] >> (4 * (i & 1))) & 15;
    case DType::I2: {
      const int v = (data<uint8_t>()[i / 4] >> (2 * (i & 3))) & 3;
      return v >= 2 ? v - 4 : v;
    }
    case DType::U2: return (data<uint8_t>()[i / 4] >> (2 * (i & 3))) & 3;
    default: return static_cast<int64_t>(float_at(i));
  }
}

double Tensor::float_at(int64_t i) const {
  switch (dtype_) {
    case DType::F32: return data<float>()[i];
    case DType::F64: return data<double>()[i];
    case DType::F16: return half_to_float(data<uint16_t>()[i]);
    case DType::BF16: return bfloat16_to_float(data<uint16_t>()[i]);
    case DType::F8E4M3FN:
    case DType::F8E4M3FNUZ:
    case DType::F8E5M2:
    case DType::F8E5M2FNUZ:
    case DType::F8E8M0: return small_float_to_float(dtype_, data<uint8_t>()[i]);
    case DType::F4E2M1: return small_float_to_float(dtype_, (data<uint8_t>()[i / 2] >> (4 * (i & 1))) & 15);
    case DType::String:
    case DType::C64:
    case DType::C128: fail(ErrorCode::InvalidArgument, "an element of a {} tensor is not a number", to_string(dtype_));
    default: return static_cast<double>(int_at(i));
  }
}

std::vector<int64_t> Tensor::to_ints() const {
  std::vector<int64_t> out(count_);
  for (int64_t i = 0; i < count_; ++i) out[i] = int_at(i);
  return out;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape() || a.layout() != b.layout()) return false;
  if (a.dtype() == DType::String) return a.strings() == b.strings();
  return a.size_bytes() == b.size_bytes() && (a.size_bytes() == 0 || std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0);
}

}  // namespace tokamak
