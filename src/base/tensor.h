#pragma once
// The one tensor type: constants in the IR, inputs and outputs of an engine, and what kernels see.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"

namespace tokamak {

using Shape = std::vector<int64_t>;

std::string to_string(const Shape& shape);  // "[2,3]"

// Product of the dimensions, 1 for a scalar. Throws OutOfRange on a negative dimension or when it passes 2^62.
int64_t num_elements(std::span<const int64_t> shape);

// A dense row-major array on the host. Copies share the storage; `clone` copies the bytes. A packed weight keeps its logical shape and
// names its storage in `layout` (empty = dense row-major); only the kernel that packed it may read it.
class Tensor {
 public:
  Tensor() = default;

  // Owned, uninitialised, 64-byte aligned. String tensors hold std::string elements.
  static Tensor empty(DType dtype, Shape shape);
  static Tensor zeros(DType dtype, Shape shape);
  // Owned bytes in a layout of a kernel's own.
  static Tensor packed(DType dtype, Shape shape, std::string layout, int64_t size_bytes);
  // Refers to memory that `owner` keeps alive (may be null: the caller does).
  static Tensor view(DType dtype, Shape shape, const void* data, std::shared_ptr<const void> owner = nullptr);
  static Tensor packed_view(DType dtype, Shape shape, std::string layout, const void* data, int64_t size_bytes,
                            std::shared_ptr<const void> owner);

  template <class T>
  static Tensor of(Shape shape, const std::vector<T>& values) {
    Tensor t = empty(DTypeOf<T>::value, std::move(shape));
    CHECK(t.count() == static_cast<int64_t>(values.size()));
    for (size_t i = 0; i < values.size(); ++i) t.data<T>()[i] = values[i];
    return t;
  }
  template <class T>
  static Tensor scalar(T value) {
    Tensor t = empty(DTypeOf<T>::value, {});
    *t.data<T>() = value;
    return t;
  }

  bool defined() const { return data_ != nullptr || strings_ != nullptr; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t rank() const { return static_cast<int64_t>(shape_.size()); }
  int64_t dim(int64_t i) const { return shape_[i < 0 ? i + rank() : i]; }
  int64_t count() const { return count_; }
  int64_t size_bytes() const { return size_bytes_; }  // of the storage, packed or dense; 0 for strings
  const std::string& layout() const { return layout_; }

  void* raw() { return data_; }
  const void* raw() const { return data_; }
  template <class T>
  T* data() {
    return static_cast<T*>(data_);
  }
  template <class T>
  const T* data() const {
    return static_cast<const T*>(data_);
  }
  std::vector<std::string>& strings() { return *strings_; }
  const std::vector<std::string>& strings() const { return *strings_; }

  Tensor clone() const;
  // Same storage, another shape of the same count. Throws InvalidArgument otherwise.
  Tensor reshaped(Shape shape) const;
  // Takes over the storage of `from` (same dtype and count) and keeps its own shape. Never allocates.
  void share_storage(const Tensor& from);

  // Element i as an integer or a double, whatever the dtype; for shape arithmetic, tests and reports, not for kernels.
  int64_t int_at(int64_t i) const;
  double float_at(int64_t i) const;
  std::vector<int64_t> to_ints() const;

 private:
  DType dtype_ = DType::F32;
  Shape shape_;
  int64_t count_ = 0;
  int64_t size_bytes_ = 0;
  std::string layout_;
  void* data_ = nullptr;
  std::shared_ptr<const void> owner_;
  std::shared_ptr<std::vector<std::string>> strings_;
};

// Same dtype, shape and bytes (strings: same strings).
bool same_bytes(const Tensor& a, const Tensor& b);

}  // namespace tokamak
