#include "backends/cpu/kernels/paged_attention_loops.h"

namespace tokamak::cpu {

const PagedAttentionFunctions& paged_attention_f32_avx2() {
  static constexpr PagedAttentionFunctions kFunctions = functions_of<VectorProducts<Float32>>("avx2");
  return kFunctions;
}
const PagedAttentionFunctions& paged_attention_bf16_avx2() {
  static constexpr PagedAttentionFunctions kFunctions = functions_of<VectorProducts<Widened>>("avx2");
  return kFunctions;
}

}  // namespace tokamak::cpu
