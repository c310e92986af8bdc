#pragma once
// ir::Expr by its definition: one instruction after the other, float32 between instructions. The oracle for cpu::ExprProgram.

#include <span>
#include <vector>

#include "ir/expr.h"
#include "runtime/kernel.h"

namespace tokamak::cpu::ref {

// Evaluates rows of `cols` elements: inputs[i] holds cols values of input i, results[k] receives the k-th result. A row reduction's value
// is repeated along the row.
void eval_row(const ir::Expr& expr, int64_t cols, std::span<const std::vector<float>> inputs, std::vector<std::vector<float>>& results);

// An epilogue bound to a node: y = expr(accumulator, extra inputs), elementwise over the output. Empty when the node has none.
class Epilogue {
 public:
  explicit Epilogue(const NodeView& node);
  explicit operator bool() const { return !expr_.results.empty(); }
  // `accumulators` holds the whole output in row-major order; replaced by the results.
  void apply(std::vector<float>& accumulators, const RunArgs& args) const;

 private:
  ir::Expr expr_;
  int first_input_ = 0;
  Shape shape_;
  std::vector<std::vector<int64_t>> strides_;  // per extra input, over shape_
};

}  // namespace tokamak::cpu::ref
