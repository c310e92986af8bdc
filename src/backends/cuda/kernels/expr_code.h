#pragma once
// Expressions (ir/expr.h) as CUDA C++. The text needs `#include "math.cuh"` (device/math.cuh) before it.

#include <string>

#include "ir/expr.h"

namespace tokamak::cuda {

// A float as a literal of device code, exact; infinities and NaN too.
std::string device_literal(float value);

// The name in device code of an expression function that is not a row reduction: "fn::gelu", "fn::and_".
std::string device_function(const std::string& function);

// An operand: "i0", "t3" or a literal.
std::string device_operand(const ir::ExprOperand& operand);

// The right-hand side of one instruction that is not a row reduction: "fn::add(i0, i1)"; powers with common exponents are products.
std::string device_instruction(const ir::ExprInstruction& instruction);

// `DEVICE float NAME(float i0, float i1, ...) { ... }`: the expression's only result as a function of its inputs, at least one and at least
// `min_inputs` of them (in an epilogue i0 is the accumulator). Throws InvalidArgument when there are row reductions or several results.
std::string device_expression(const ir::Expr& expr, const std::string& name = "epilogue", int min_inputs = 1);

}  // namespace tokamak::cuda
