#include "backends/cuda/kernels/expr_code.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace tokamak::cuda {

std::string device_literal(float value) {
  if (std::isnan(value)) return "__int_as_float(0x7fc00000)";
  if (std::isinf(value)) return value > 0 ? "fn::kInfinity" : "(-fn::kInfinity)";
  const std::string text = fmt::format("{:a}f", value);
  return std::signbit(value) ? "(" + text + ")" : text;
}

std::string device_function(const std::string& function) {
  const bool is_keyword = function == "and" || function == "or" || function == "xor" || function == "not";
  return "fn::" + function + (is_keyword ? "_" : "");
}

std::string device_operand(const ir::ExprOperand& operand) {
  if (operand.kind == ir::ExprOperand::Literal) return device_literal(operand.literal);
  return (operand.kind == ir::ExprOperand::Input ? "i" : "t") + std::to_string(operand.index);
}

std::string device_instruction(const ir::ExprInstruction& instruction) {
  CHECK(!ir::is_row_reduction(instruction.function));
  if (instruction.function == "pow" && instruction.operands[1].kind == ir::ExprOperand::Literal) {
    const std::string x = device_operand(instruction.operands[0]);
    const float exponent = instruction.operands[1].literal;
    if (exponent == 1) return x;
    if (exponent == 2) return fmt::format("{0} * {0}", x);
    if (exponent == 3) return fmt::format("{0} * {0} * {0}", x);
    if (exponent == -1) return fmt::format("fn::reciprocal({})", x);
  }
  std::string text;
  for (const ir::ExprOperand& operand : instruction.operands) text += (text.empty() ? "" : ", ") + device_operand(operand);
  return device_function(instruction.function) + "(" + text + ")";
}

std::string device_expression(const ir::Expr& expr, const std::string& name, int min_inputs) {
  if (expr.has_row_reduction() || expr.results.size() != 1)
    fail(ErrorCode::InvalidArgument, "an epilogue is one value an element, without row reductions; found \"{}\"", expr.to_string());
  std::string parameters, body;
  for (int i = 0; i < std::max({1, min_inputs, expr.num_inputs()}); ++i) parameters += fmt::format("{}float i{}", i ? ", " : "", i);
  for (size_t t = 0; t < expr.code.size(); ++t) body += fmt::format("  const float t{} = {};\n", t, device_instruction(expr.code[t]));
  return fmt::format("DEVICE float {}({}) {{\n{}  return {};\n}}\n", name, parameters, body, device_operand(expr.results[0]));
}

}  // namespace tokamak::cuda
