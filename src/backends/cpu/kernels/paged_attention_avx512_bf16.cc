#include "backends/cpu/kernels/paged_attention_loops.h"

namespace tokamak::cpu {
namespace {

// A word of two bf16 weights times a vector of pairs, added to f32 sums.
struct PairDot {
  static constexpr int kPair = 2, kTerms = 1;
  static constexpr bool kBf16Weights = true;
  static void store_bf16(uint16_t* p, F a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a.v)));
  }
  struct Vector {
    __m512i v;
  };
  static Vector load_words(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
  static Vector load_words(const uint32_t* p, int64_t n) { return {_mm512_maskz_loadu_epi32(first_lanes(n), p)}; }
  static F multiply_add(const uint32_t* weight, Vector x, F sum) {
    return {
        _mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(*weight))), reinterpret_cast<__m512bh>(x.v))};
  }
};

}  // namespace

const PagedAttentionFunctions& paged_attention_bf16_avx512_bf16() {
  static constexpr PagedAttentionFunctions kFunctions = functions_of<VectorProducts<PairDot>>("avx512_bf16");
  return kFunctions;
}

}  // namespace tokamak::cpu
