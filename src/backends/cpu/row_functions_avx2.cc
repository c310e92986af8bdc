#include "backends/cpu/row_loops.h"

namespace tokamak::cpu {

const RowFunctions& row_functions_avx2() { return kRowFunctions; }

}  // namespace tokamak::cpu
