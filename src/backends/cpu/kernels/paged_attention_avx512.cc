#include "backends/cpu/kernels/paged_attention_loops.h"

namespace tokamak::cpu {

const PagedAttentionFunctions& paged_attention_f32_avx512() {
  static constexpr PagedAttentionFunctions kFunctions = functions_of<VectorProducts<Float32>>("avx512");
  return kFunctions;
}
const PagedAttentionFunctions& paged_attention_bf16_avx512() {
  static constexpr PagedAttentionFunctions kFunctions = functions_of<VectorProducts<Widened>>("avx512");
  return kFunctions;
}

}  // namespace tokamak::cpu
