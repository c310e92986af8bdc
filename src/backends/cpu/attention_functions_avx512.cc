#include "backends/cpu/attention_loops.h"

namespace tokamak::cpu {

const AttentionFunctions& attention_functions_avx512() { return kAttentionFunctions; }

}  // namespace tokamak::cpu
