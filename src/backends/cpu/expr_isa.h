#pragma once
// The instruction-set part of ExprProgram: loops over strips of float32.

#include <cstdint>

#include "base/dtype.h"

namespace tokamak::cpu {

enum class ExprOp : uint8_t {
#define UNARY(name) k_##name,
#define BINARY(name) k_##name,
#define TERNARY(name) k_##name,
#define REDUCTION(name) k_##name,
#include "backends/cpu/expr_functions.inc"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef REDUCTION
  kCount
};

// An operand of a strip: advances with the columns, or (uniform) points at 16 copies of one value.
struct StripOperand {
  const float* data;
  bool uniform;
};

// d[0..n) = f(a, b, c); operands that the function lacks are ignored. `d` may be an operand's data. A reduction writes 16 copies of its
// result.
using StripFunction = void (*)(float* d, const StripOperand* operands, int64_t n);

struct ExprIsa {
  StripFunction functions[static_cast<int>(ExprOp::kCount)];
  // Converts n elements. Load: F32, F16, BF16, Bool, U8, I8, I32, I64. Store: F32, F16, BF16, Bool.
  void (*load)(float* d, const void* data, DType dtype, int64_t n);
  void (*store)(void* data, DType dtype, const float* s, int64_t n);
};

// Null-free tables; enter only when cpu_features() allows.
const ExprIsa& expr_isa_avx512();
const ExprIsa& expr_isa_avx2();

}  // namespace tokamak::cpu
