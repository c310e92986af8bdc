// The tiles of gemm_avx512.cc over pairs of bfloat16: vdpbf16ps multiplies both and adds to an f32 sum.
#include "backends/cpu/kernels/gemm_microkernel.h"
#include "backends/cpu/kernels/simd_math_avx512.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-slp-vectorize")  // it would keep the row pointers of a tile in vectors
#endif

namespace tokamak::cpu {
namespace {

constexpr int kMaxVectors = 4;
constexpr int kMaxRows[] = {0, 14, 14, 9, 6};  // by vectors
constexpr int kPrefetchFloats = 1024;

inline VecF multiply_add(VecF a, VecF b, VecF sum) {
  return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
}

#include "backends/cpu/kernels/gemm_tile.inc"

}  // namespace

void gemm_bf16_pairs(const float* a, int64_t count, int64_t k, uint32_t* pairs) {
  const int64_t kp = (k + 1) / 2;
  for (int64_t r = 0; r < count; ++r, a += k, pairs += kp)
    for (int64_t i = 0; i < k; i += 32) {
      const int64_t left = k - i;
      const __m512 low = _mm512_maskz_loadu_ps(left >= 16 ? 0xffff : (1u << left) - 1, a + i);
      const __m512 high =
          left > 16 ? _mm512_maskz_loadu_ps(left >= 32 ? 0xffff : (1u << (left - 16)) - 1, a + i + 16) : _mm512_setzero_ps();
      const int64_t pairs_left = kp - i / 2;
      const __mmask16 mask = pairs_left >= 16 ? 0xffff : (1u << pairs_left) - 1;
      _mm512_mask_storeu_epi32(pairs + i / 2, mask, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

const GemmIsa& gemm_avx512_bf16() {
  static constexpr GemmIsa isa = {kLanes, kMaxVectors, max_rows, find_tile, activate};
  return isa;
}

}  // namespace tokamak::cpu
