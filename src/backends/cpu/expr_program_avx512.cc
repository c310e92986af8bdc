#include "backends/cpu/expr_loops.h"

namespace tokamak::cpu {

const ExprIsa& expr_isa_avx512() { return kIsa; }

}  // namespace tokamak::cpu
