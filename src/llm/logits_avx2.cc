#include "llm/logits_loops.h"

namespace tokamak::llm {

const LogitsFunctions& logits_functions_avx2() { return kLogitsFunctions; }

}  // namespace tokamak::llm
