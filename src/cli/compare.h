#pragma once
// Whether an output is the expected one, by the rule of the ONNX backend test suite.

#include <string>

#include "base/tensor.h"

namespace tokamak::cli {

struct Tolerance {
  double rtol = 1e-3, atol = 1e-7;
};

struct Difference {
  bool same = true;          // within tolerance
  double max_abs_error = 0;  // over elements where both are finite
  double max_rel_error = 0;  // |got - want| / |want|, over elements with want != 0
  std::string message;       // what differs first; empty when the same
};

// Shape and dtype equal, and |got - want| <= atol + rtol * |want| for each element. NaN equals NaN; an infinity equals only itself; strings
// are equal byte for byte; integers and booleans go through the same formula.
Difference compare_tensors(const Tensor& got, const Tensor& want, const Tolerance& tolerance);

}  // namespace tokamak::cli
