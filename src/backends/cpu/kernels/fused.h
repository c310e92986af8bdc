#pragma once
// Runs an ExprProgram over broadcast tensors: the kernel of `fused` and of every single pointwise op.

#include <memory>
#include <string>
#include <vector>

#include "backends/cpu/expr_program.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {

// An instruction set's name ("avx512") with its table, when the CPU has it.
struct IsaChoice {
  const char* name;
  const ExprIsa& (*table)();
  bool (*available)();
};
extern const IsaChoice kAvx512, kAvx2;

// Dtypes that ExprProgram loads and stores.
bool expr_loads(DType dtype);
bool expr_stores(DType dtype);

// A kernel for `expr` whose input k is the node's input `inputs[k]`; all outputs have `shape`, except that reduced[o] ones have a last
// dim 1.
std::unique_ptr<Kernel> make_expr_kernel(const NodeView& node, const ir::Expr& expr, const std::vector<int>& inputs, const Shape& shape,
                                         const std::vector<int64_t>& reduced, const ExprIsa& isa);

}  // namespace tokamak::cpu
