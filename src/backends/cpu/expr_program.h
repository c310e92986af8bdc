#pragma once
// Runs an ir::Expr over tiles with the SIMD kernels of the CPU present. Used by the `fused` kernel and by matmul/conv epilogues.

#include <cstdint>
#include <memory>
#include <vector>

#include "base/dtype.h"
#include "ir/expr.h"

namespace tokamak::cpu {

// Element (r, c) of an operand is at data + (r * row_stride + c * col_stride) elements; col_stride is 0 (one value a row) or 1.
struct TileInput {
  const void* data = nullptr;
  DType dtype = DType::F32;  // F32, F16, BF16, Bool, U8, I8, I32, I64
  int64_t row_stride = 0;
  int64_t col_stride = 1;
};
struct TileOutput {
  void* data = nullptr;
  DType dtype = DType::F32;  // F32, F16, BF16, Bool
  int64_t row_stride = 0;    // in elements; columns are contiguous
  bool one_column = false;   // only column 0 of each row is stored (an output that `reduced` marks)
};

struct ExprIsa;

class ExprProgram {
 public:
  // Throws Unsupported on a CPU without AVX2. The second form forces an instruction set (expr_isa.h), which the CPU must have.
  explicit ExprProgram(const ir::Expr& expr);
  ExprProgram(const ir::Expr& expr, const ExprIsa& isa);

  // Scratch that run() needs per thread, in bytes, for tiles of up to `cols` columns (rows are processed one at a time or in strips).
  int64_t scratch_bytes(int64_t cols) const;

  // Evaluates rows x cols. Row reductions reduce over all `cols` columns: with one in the expression, a tile must hold whole rows.
  // Outputs may alias inputs of the same dtype and strides. `scratch` is 64-byte aligned. Never allocates.
  void run(int64_t rows, int64_t cols, const TileInput* inputs, const TileOutput* outputs, void* scratch) const;

  const ir::Expr& expr() const { return expr_; }

  // The forms that a GEMM or convolution applies in registers, without a tile pass:
  //   y = act(acc + bias[col]) (+ residual before or after act)
  enum class Activation {
    None,
    Relu,
    Relu6,
    Gelu,
    GeluTanh,
    Silu,
    Sigmoid,
    Tanh,
    HardSwish,
    HardSigmoid
  };  // HardSigmoid: alpha 1/6, beta 1/2
  struct Simple {
    int bias = -1;                // which expression input is a per-column bias, -1 none (the caller checks that it varies by column only)
    int residual = -1;            // which input has the output's full shape, -1 none
    bool residual_after = false;  // added after the activation (else before)
    Activation activation = Activation::None;
  };
  // `per_column[i]` / `full[i]` say how input i broadcasts. Returns false when the expression is not of that form.
  bool as_simple(const std::vector<bool>& per_column, const std::vector<bool>& full, Simple& out) const;

 private:
  ir::Expr expr_;
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace tokamak::cpu
