// fused, and the scalar evaluator of expressions.

#include <algorithm>

#include "backends/cpu/kernels/ref/expr_ref.h"
#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cpu/kernels/ref/scalar.h"

namespace tokamak::cpu::ref {
namespace {

void reduce_row(const std::string& function, std::vector<float>& row) {
  double value = function == "row_max" ? -INFINITY : function == "row_min" ? INFINITY : 0;
  for (float x : row) {
    if (function == "row_max") value = std::isnan(x) || std::isnan(value) ? NAN : std::max<double>(value, x);
    else if (function == "row_min") value = std::isnan(x) || std::isnan(value) ? NAN : std::min<double>(value, x);
    else value += x;
  }
  if (function == "row_mean") value /= static_cast<double>(row.size());
  std::fill(row.begin(), row.end(), static_cast<float>(value));
}

// Offsets of one row of `cols` elements in an operand of any shape that broadcasts to the region's.
void load_row(const Tensor& tensor, int64_t offset, int64_t step, std::vector<float>& row) {
  const int64_t cols = static_cast<int64_t>(row.size());
  if (tensor.dtype() == DType::F32) {
    const float* p = tensor.data<float>() + offset;
    for (int64_t c = 0; c < cols; ++c) row[c] = p[c * step];
  } else {
    for (int64_t c = 0; c < cols; ++c) row[c] = static_cast<float>(tensor.float_at(offset + c * step));
  }
}

void store_value(Tensor& out, int64_t i, float value) {
  if (out.dtype() == DType::Bool) {
    out.data<uint8_t>()[i] = value != 0;
    return;
  }
  visit_number(out.dtype(), "fused", [&](auto tag) {
    using T = typename decltype(tag)::type;
    out.data<T>()[i] = store<T>(value);
  });
}

RunFunction prepare_fused(const NodeView& node) {
  const ir::Expr expr = ir::Expr::parse(node.attrs().get_string("expr"));
  const std::vector<int64_t> reduced = node.attrs().get_ints("reduced", {});
  // The region's shape: all inputs broadcast together (outputs may be reduced).
  Shape shape;
  for (const Shape& s : node.input_shapes) {
    if (s.size() > shape.size()) shape.insert(shape.begin(), s.size() - shape.size(), 1);
    const size_t shift = shape.size() - s.size();
    for (size_t i = 0; i < s.size(); ++i)
      if (s[i] != 1) shape[shift + i] = s[i];
  }
  if (shape.empty()) shape = {1};
  const int64_t rank = static_cast<int64_t>(shape.size()), cols = shape.back();
  const int64_t rows = cols == 0 ? 0 : size_of(shape) / cols;
  std::vector<std::vector<int64_t>> strides;
  for (const Shape& s : node.input_shapes) strides.push_back(broadcast_strides(s, shape));
  return [=](const RunArgs& args) {
    std::vector<std::vector<float>> inputs(strides.size(), std::vector<float>(cols)), results;
    std::vector<int64_t> index(rank, 0);
    for (int64_t r = 0; r < rows; ++r) {
      for (size_t i = 0; i < strides.size(); ++i) {
        int64_t offset = 0;
        for (int64_t d = 0; d + 1 < rank; ++d) offset += index[d] * strides[i][d];
        load_row(args.inputs[i], offset, strides[i][rank - 1], inputs[i]);
      }
      eval_row(expr, cols, inputs, results);
      for (size_t k = 0; k < results.size(); ++k) {
        if (k < reduced.size() && reduced[k]) store_value(args.outputs[k], r, results[k][0]);
        else
          for (int64_t c = 0; c < cols; ++c) store_value(args.outputs[k], r * cols + c, results[k][c]);
      }
      for (int64_t d = rank - 2; d >= 0 && ++index[d] == shape[d]; --d) index[d] = 0;
    }
  };
}

}  // namespace

void eval_row(const ir::Expr& expr, int64_t cols, std::span<const std::vector<float>> inputs, std::vector<std::vector<float>>& results) {
  std::vector<std::vector<float>> temps(expr.code.size());
  const auto value = [&](const ir::ExprOperand& operand, int64_t c) -> float {
    if (operand.kind == ir::ExprOperand::Literal) return operand.literal;
    return operand.kind == ir::ExprOperand::Input ? inputs[operand.index][c] : temps[operand.index][c];
  };
  for (size_t t = 0; t < expr.code.size(); ++t) {
    const ir::ExprInstruction& instruction = expr.code[t];
    std::vector<float>& row = temps[t];
    row.resize(cols);
    if (ir::is_row_reduction(instruction.function)) {
      for (int64_t c = 0; c < cols; ++c) row[c] = value(instruction.operands[0], c);
      reduce_row(instruction.function, row);
      continue;
    }
    const Scalar* scalar = find_scalar(instruction.function);
    CHECK(scalar != nullptr);
    double operands[4] = {0, 1, 1, 0};  // isinf: both signs when the expression names no flags
    for (int64_t c = 0; c < cols; ++c) {
      for (size_t i = 0; i < instruction.operands.size(); ++i) operands[i] = value(instruction.operands[i], c);
      row[c] = static_cast<float>(scalar->function(operands));
    }
  }
  results.resize(expr.results.size());
  for (size_t k = 0; k < results.size(); ++k) {
    results[k].resize(cols);
    for (int64_t c = 0; c < cols; ++c) results[k][c] = value(expr.results[k], c);
  }
}

Epilogue::Epilogue(const NodeView& node) {
  if (!node.attrs().has("epilogue")) return;
  expr_ = ir::Expr::parse(node.attrs().get_string("epilogue"));
  shape_ = node.output_shapes[0];
  first_input_ = static_cast<int>(node.attrs().get_int("epilogue_input", node.num_inputs()));
  for (int i = first_input_; i < node.num_inputs(); ++i) strides_.push_back(broadcast_strides(node.input_shapes[i], shape_));
}

void Epilogue::apply(std::vector<float>& accumulators, const RunArgs& args) const {
  const int64_t rank = static_cast<int64_t>(shape_.size()), cols = rank == 0 ? 1 : shape_.back();
  const int64_t rows = cols == 0 ? 0 : static_cast<int64_t>(accumulators.size()) / cols;
  std::vector<std::vector<float>> inputs(strides_.size() + 1, std::vector<float>(cols)), results;
  std::vector<int64_t> index(rank, 0);
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(accumulators.begin() + r * cols, cols, inputs[0].begin());
    for (size_t i = 0; i < strides_.size(); ++i) {
      int64_t offset = 0;
      for (int64_t d = 0; d + 1 < rank; ++d) offset += index[d] * strides_[i][d];
      load_row(args.inputs[first_input_ + i], offset, rank == 0 ? 0 : strides_[i][rank - 1], inputs[i + 1]);
    }
    eval_row(expr_, cols, inputs, results);
    std::copy(results[0].begin(), results[0].end(), accumulators.begin() + r * cols);
    for (int64_t d = rank - 2; d >= 0 && ++index[d] == shape_[d]; --d) index[d] = 0;
  }
}

KernelList fused_kernels() { return {define("fused", prepare_fused)}; }

}  // namespace tokamak::cpu::ref
