#include "ir/type.h"

namespace tokamak::ir {

TensorType TensorType::of(const Tensor& tensor) { return {tensor.dtype(), Dims(tensor.shape().begin(), tensor.shape().end())}; }

bool TensorType::is_static() const {
  if (!ranked) return false;
  for (const Dim& d : dims)
    if (!d.is_const()) return false;
  return true;
}

Shape TensorType::static_shape() const {
  CHECK(is_static());
  Shape shape;
  shape.reserve(dims.size());
  for (const Dim& d : dims) shape.push_back(d.value());
  return shape;
}

Dim TensorType::num_elements() const {
  CHECK(ranked);
  Dim n = 1;
  for (const Dim& d : dims) n = n * d;
  return n;
}

std::string to_string(const TensorType& type) {
  return std::string(to_string(type.dtype)) + "[" + (type.ranked ? to_string(type.dims) : "*") + "]";
}

}  // namespace tokamak::ir
