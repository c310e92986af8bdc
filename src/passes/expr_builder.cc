#include "passes/expr_builder.h"

#include <limits>

namespace tokamak::passes {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

struct AttrOperands {
  std::string_view op;
  std::vector<std::pair<std::string_view, double>> attrs;  // name and ONNX's default, in the expression's operand order
};
const std::vector<AttrOperands>& attr_operands() {
  static const std::vector<AttrOperands> table = {
      {"leaky_relu", {{"alpha", 0.01}}},
      {"elu", {{"alpha", 1}}},
      {"celu", {{"alpha", 1}}},
      {"thresholded_relu", {{"alpha", 1}}},
      {"selu", {{"alpha", 1.67326319217681884765625}, {"gamma", 1.05070102214813232421875}}},
      {"hard_sigmoid", {{"alpha", 0.2}, {"beta", 0.5}}},
      {"shrink", {{"bias", 0}, {"lambd", 0.5}}},
  };
  return table;
}

bool real(const Value* v) { return v != nullptr && (is_float(v) || v->type.dtype == DType::Bool); }

}  // namespace

bool expressible(const Node* n) {
  if (!n->op().is_pointwise() || n->num_outputs() != 1 || !n->output(0)->type.ranked || !real(n->output(0))) return false;
  for (int i = 0; i < n->num_inputs(); ++i)
    if (!real(n->input(i)) && !(n->is("clip") && n->input(i) == nullptr)) return false;
  const std::string_view op = n->op().name;
  if (op == "cast") return n->output(0)->type.dtype == DType::F32;  // to f32 is the identity; others round or test
  if (op == "clip") return is_float(n->input(0));
  if (op == "mod") return n->attrs.get_int("fmod", 0) == 1;
  if (op == "isinf") return n->attrs.get_int("detect_negative", 1) == 1 && n->attrs.get_int("detect_positive", 1) == 1;
  for (const AttrOperands& a : attr_operands())
    if (a.op == op) return true;
  return ir::expr_function_arity(op) == n->num_inputs() && !ir::is_row_reduction(op);
}

bool ExprBuilder::is_literal(const Value* v) const { return v->is_constant() && v->constant.count() == 1 && real(v); }

ir::ExprOperand ExprBuilder::operand(const Value* v) const {
  if (const auto it = bound_.find(v); it != bound_.end()) return it->second;
  CHECK(is_literal(v));
  return literal(v->constant.float_at(0));
}

ir::ExprOperand ExprBuilder::push(std::string_view function, std::vector<ir::ExprOperand> operands) {
  expr_.code.push_back({std::string(function), std::move(operands)});
  return {ir::ExprOperand::Temp, static_cast<int>(expr_.code.size()) - 1, 0};
}

void ExprBuilder::append(const Node* n) {
  const std::string_view op = n->op().name;
  const Value* out = n->output(0);
  if (op == "cast") {
    bound_[out] = operand(n->input(0));
    return;
  }
  std::vector<ir::ExprOperand> operands;
  for (const Value* v : n->inputs())
    if (v != nullptr) operands.push_back(operand(v));
  if (op == "clip") {
    operands.resize(1);
    const auto limit = [&](int i, const char* attr, double none) {
      return n->input(i) != nullptr ? operand(n->input(i)) : literal(n->attrs.get_float(attr, none));
    };
    operands.push_back(limit(1, "min", -kInf));
    operands.push_back(limit(2, "max", kInf));
  }
  for (const AttrOperands& a : attr_operands())
    if (a.op == op)
      for (const auto& [name, otherwise] : a.attrs) operands.push_back(literal(n->attrs.get_float(name, otherwise)));
  bound_[out] = push(op, std::move(operands));
}

void ExprBuilder::append_reduction(std::string_view function, const Value* v, const Value* out) {
  bound_[out] = push(function, {operand(v)});
}

}  // namespace tokamak::passes
