#pragma once
// From pointwise nodes to ir::Expr: shared by epilogues and fused regions.

#include <optional>
#include <unordered_map>

#include "ir/expr.h"
#include "passes/match.h"

namespace tokamak::passes {

// Whether a node can be an instruction of an expression: pointwise, on floats and booleans, with attributes the expression can say.
bool expressible(const Node* node);

// Collects instructions. Values must be bound (as an input or by an earlier instruction) before a node reads them; one-element constants
// become literals by themselves.
class ExprBuilder {
 public:
  void bind_input(const Value* v, int index) { bound_[v] = {ir::ExprOperand::Input, index, 0}; }
  bool bound(const Value* v) const { return bound_.count(v) != 0; }
  bool is_literal(const Value* v) const;
  // Appends the node; its output is bound to the result.
  void append(const Node* node);
  // A row reduction over the last axis of `v`, bound to `out`.
  void append_reduction(std::string_view function, const Value* v, const Value* out);
  void add_result(const Value* v) { expr_.results.push_back(operand(v)); }
  int size() const { return static_cast<int>(expr_.code.size()); }
  std::string text() const { return expr_.to_string(); }

 private:
  ir::ExprOperand operand(const Value* v) const;
  static ir::ExprOperand literal(double v) { return {ir::ExprOperand::Literal, 0, static_cast<float>(v)}; }
  ir::ExprOperand push(std::string_view function, std::vector<ir::ExprOperand> operands);

  ir::Expr expr_;
  std::unordered_map<const Value*, ir::ExprOperand> bound_;
};

}  // namespace tokamak::passes
