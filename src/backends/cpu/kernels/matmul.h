#pragma once
// What the matmul kernels share: the shapes of a product and its epilogue, read once from a node.

#include <optional>
#include <vector>

#include "backends/cpu/expr_program.h"
#include "backends/cpu/kernels/gemm_driver.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {

// matmul's shapes as a batch of C[m, n] = A[m, k] B[k, n]; 1-D operands have m or n = 1. Offsets are in elements, one a batch item.
struct MatmulShape {
  int64_t m = 1, n = 1, k = 1;
  int64_t batch = 1;
  bool trans_a = false, trans_b = false;
  std::vector<int64_t> a_matrix, b_matrix;  // which matrix of a and b item i uses
  int64_t a_count = 1, b_count = 1;         // matrices in a and b
  Shape batch_dims;                         // of the output
  bool row = false, column = false;         // a or b is 1-D

  explicit MatmulShape(const NodeView& view) : MatmulShape(view, view.attrs().get_bool("trans_b", false)) {}
  MatmulShape(const NodeView& view, bool trans_b);
  // One b for all items and a untransposed: the items' rows follow each other, so the batch is one taller product. batch becomes 1.
  void flatten_batch();
};

// A node's epilogue: applied in registers when it is simple, else tile by tile by ExprProgram. Thread-safe.
class MatmulEpilogue {
 public:
  // Of the accumulator and the inputs from `epilogue_input` on; `shape` before flatten_batch.
  MatmulEpilogue(const NodeView& view, const MatmulShape& shape);
  static Support supports(const NodeView& view);

  // For Gemm::epilogue of item `batch` (0 when flattened); nothing set unless simple.
  GemmEpilogue in_registers(std::span<const Tensor> inputs, int64_t item) const;
  bool needs_pass() const { return program_.has_value(); }
  bool whole_rows() const { return program_ && program_->expr().has_row_reduction(); }
  int64_t scratch_bytes(int64_t cols) const { return program_ ? (program_->scratch_bytes(cols) + 63) / 64 * 64 : 0; }
  // Rewrites c[rows, cols] at (row, col); row counts through the batch. c has n columns a row.
  void run(std::span<const Tensor> inputs, float* c, int64_t row, int64_t rows, int64_t col, int64_t cols, void* scratch) const;

 private:
  struct Operand {
    int input = 0;
    DType dtype = DType::F32;
    int64_t row_stride = 0, col_stride = 0;
    std::vector<int64_t> offset;  // per item, or one when the whole batch is one run of rows
  };
  int64_t m_, n_, rows_per_item_;
  std::vector<Operand> operands_;  // from expression input 1 on
  std::optional<ExprProgram> program_;
  ExprProgram::Simple simple_;
  bool has_simple_ = false;
};

}  // namespace tokamak::cpu
