#pragma once
// What follows a product or a convolution in the same kernel: bias and the node's epilogue expression, as device code.

#include <array>
#include <string>
#include <vector>

#include "ir/expr.h"
#include "runtime/kernel.h"

namespace tokamak::cuda {

// `index` (an expression of device code) counts row-major over `dims`; the result is the sum of coordinate times stride, simplified.
std::string strided_offset(const Shape& dims, const std::vector<int64_t>& strides, const std::string& index);

// Strides in elements of a dense tensor of `shape` broadcast to `dims`: 0 where it repeats. False when it does not broadcast.
bool broadcast_strides(const Shape& shape, const Shape& dims, std::vector<int64_t>& strides);

// Reads attributes `epilogue` and `epilogue_input`, and the bias (input 2) of a convolution. The output is seen as rows of its last
// dimension's length, or of one column with `column` (a product by a vector).
class Epilogue {
 public:
  static constexpr int kMaxInputs = 15;
  static Support supports(const NodeView& node);
  explicit Epilogue(const NodeView& node, bool column = false);

  bool empty() const { return inputs_.empty() && expr_.results.empty(); }

  // Device code: struct Extras (a kernel's parameter: pointers() is its value) and
  //   template <int kCount> DEVICE void epilogue(float (&x)[kCount], int64_t row, int64_t col, const Extras& extras)
  // for kCount > 1 the row length and `col` are multiples of kCount; and touch_extras(row, col, extras), which asks for what that reads
  // ahead, when it is there. Begins with its includes.
  std::string code() const;

  struct Pointers {
    const void* at[kMaxInputs + 1] = {};
  };
  Pointers pointers(const RunArgs& args) const;

  // The parts, for libraries with epilogues of their own. Inputs in the order of the expression's i1..., a bias before them.
  struct Input {
    int index = 0;  // of the node
    DType dtype = DType::F32;
    std::vector<int64_t> strides;  // over dims()
    bool is_bias = false;
  };
  const std::vector<Input>& inputs() const { return inputs_; }
  const ir::Expr& expr() const { return expr_; }  // no results: none
  const Shape& dims() const { return dims_; }
  bool is_row_vector(const Input& input) const;  // one value a column
  bool is_full(const Input& input) const;        // dense in the output's shape

 private:
  ir::Expr expr_;
  Shape dims_;
  std::vector<Input> inputs_;
};

}  // namespace tokamak::cuda
