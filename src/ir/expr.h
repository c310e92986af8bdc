#pragma once
// The small expression that a `fused` node and a matmul/conv epilogue carry in a string attribute: straight-line SSA over float32.
//
//   "t0 = add(i0, i1); t1 = gelu(t0); t2 = mul(t1, 0.5); ret t2"
//
// i0.. are inputs (in an epilogue i0 is the accumulator, i1.. the node's inputs from attribute `epilogue_input` on). t0.. are results in
// order. Literals are floats ("inf", "-inf", "nan" too). Functions are the names of core pointwise ops, plus row reductions over the last
// axis whose result stands for the whole row: row_sum, row_mean, row_max, row_min. `ret` lists the outputs, one or more. Values are
// computed in float32 whatever the inputs' dtype; comparisons give 0 or 1; `where(c, a, b)` picks a where c != 0.

#include <string>
#include <string_view>
#include <vector>

namespace tokamak::ir {

struct ExprOperand {
  enum Kind { Input, Temp, Literal } kind = Input;
  int index = 0;  // of the input or the instruction
  float literal = 0;
  bool operator==(const ExprOperand&) const = default;
};

struct ExprInstruction {
  std::string function;  // "add", "row_sum", ...
  std::vector<ExprOperand> operands;
};

struct Expr {
  std::vector<ExprInstruction> code;
  std::vector<ExprOperand> results;

  int num_inputs() const;  // highest i used, plus one
  bool has_row_reduction() const;
  std::string to_string() const;
  // Throws Corrupt on bad text: unknown function, wrong arity, use before definition, more than 256 instructions.
  static Expr parse(std::string_view text);
};

// Arity of an expression function, or -1 when unknown.
int expr_function_arity(std::string_view function);
bool is_row_reduction(std::string_view function);

}  // namespace tokamak::ir
