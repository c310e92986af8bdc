#pragma once
// The static type of a value.

#include <optional>
#include <string>

#include "base/tensor.h"
#include "ir/dim.h"

namespace tokamak::ir {

// dtype and shape. An unknown size is a fresh symbol ("_7"); an unknown rank has `ranked == false` and no dims.
struct TensorType {
  DType dtype = DType::F32;
  bool ranked = false;
  Dims dims;

  TensorType() = default;
  TensorType(DType dtype, Dims dims) : dtype(dtype), ranked(true), dims(std::move(dims)) {}
  static TensorType unranked(DType dtype) {
    TensorType t;
    t.dtype = dtype;
    return t;
  }
  static TensorType of(const Tensor& tensor);

  int64_t rank() const { return static_cast<int64_t>(dims.size()); }
  bool is_static() const;      // ranked and every dim constant
  Shape static_shape() const;  // CHECKs is_static()
  Dim num_elements() const;    // product of dims; ranked only
  bool operator==(const TensorType& other) const = default;
};

std::string to_string(const TensorType& type);  // "f32[batch,3,224,224]", "f32[*]" when unranked

}  // namespace tokamak::ir
