// See gemm_microkernel.h and gemm_tile.inc.
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

inline VecF multiply_add(VecF a, VecF b, VecF sum) { return v_fma(a, b, sum); }

#include "backends/cpu/kernels/gemm_tile.inc"

}  // namespace

const GemmIsa& gemm_avx512() {
  static constexpr GemmIsa isa = {kLanes, kMaxVectors, max_rows, find_tile, activate};
  return isa;
}

}  // namespace tokamak::cpu
