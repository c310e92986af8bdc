#pragma once
// Pointwise functions on one element, by name: the meaning of the pointwise ops and of the functions of ir::Expr.

#include <string_view>
#include <vector>

#include "ir/attr.h"

namespace tokamak::cpu::ref {

// operands: the op's inputs, then its float attributes in the order of docs/ops.md.
using ScalarFunction = double (*)(const double* operands);

struct ScalarParameter {
  const char* name;
  double value;  // ONNX's default
};

struct Scalar {
  std::string_view name;
  ScalarFunction function;
  int inputs = 1;
  std::vector<ScalarParameter> parameters = {};
};

// Null when unknown. Row reductions are not scalar functions.
const Scalar* find_scalar(std::string_view name);
const std::vector<Scalar>& scalars();
// The float attributes in operand order.
std::vector<double> scalar_parameters(const Scalar& scalar, const ir::Attrs& attrs);

}  // namespace tokamak::cpu::ref
