#include <immintrin.h>

#include "backends/cpu/kernels/matmul_integer.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-slp-vectorize")  // it would keep the row pointers of a tile in vectors
#endif

namespace tokamak::cpu {
namespace {

// Sums are in the builtin's own type: as __m512i g++ 12 keeps a copy of each in memory.
using Sums = int __attribute__((vector_size(64)));

constexpr int kMaxRows = 6, kMaxVectors = 4;  // 24 accumulators of 32 registers

inline int32_t load4(const uint8_t* p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return x;
}

template <int kRows, int kVectors>
void tile(const VnniBlock& t, int64_t row) {
  Sums sum[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = Sums{};
  const uint8_t* a = t.a + row * t.a_stride;
  const uint8_t* b = t.b;
  for (int64_t g = 0; g < t.groups; ++g, a += 4, b += kVectors * 64) {
    __m512i right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = _mm512_loadu_si512(b + v * 64);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const __m512i left = _mm512_set1_epi32(load4(a + r * t.a_stride));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = (Sums)_mm512_dpbusd_epi32((__m512i)sum[r][v], left, right[v]);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int64_t left = t.cols - v * 16;
    const __mmask16 mask = left >= 16 ? 0xffff : (1u << left) - 1;
    const __m512i term = _mm512_loadu_si512(t.column_term + v * 16);
    const __m512i zero = t.row_sums ? _mm512_loadu_si512(t.b_zero + v * 16) : _mm512_setzero_si512();
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      __m512i x = _mm512_add_epi32((__m512i)sum[r][v], term);
      if (t.row_sums) x = _mm512_sub_epi32(x, _mm512_mullo_epi32(zero, _mm512_set1_epi32(t.row_sums[row + r])));
      _mm512_mask_storeu_epi32(t.c + (row + r) * t.c_stride + v * 16, mask, x);
    }
  }
}

using TileFunction = void (*)(const VnniBlock&, int64_t row);
#define ROWS(r) \
  { tile<r, 1>, tile<r, 2>, tile<r, 3>, tile<r, 4> }
constexpr TileFunction kTiles[kMaxRows][kMaxVectors] = {ROWS(1), ROWS(2), ROWS(3), ROWS(4), ROWS(5), ROWS(6)};
#undef ROWS

}  // namespace

void vnni_prepare_row_avx512(const uint8_t* a, int64_t k, uint8_t flip, uint8_t* out, int32_t* sum) {
  const __m512i flips = _mm512_set1_epi8(static_cast<char>(flip));
  const int64_t padded = (k + 3) / 4 * 4;
  const auto first = [](int64_t count) -> __mmask64 { return count >= 64 ? ~0ull : (1ull << count) - 1; };
  __m512i total = _mm512_setzero_si512();
  for (int64_t i = 0; i < k; i += 64) {
    const __mmask64 mask = first(k - i);
    const __m512i x = _mm512_maskz_mov_epi8(mask, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, a + i), flips));
    if (out) _mm512_mask_storeu_epi8(out + i, first(padded - i), x);
    total = _mm512_add_epi64(total, _mm512_sad_epu8(x, _mm512_setzero_si512()));
  }
  if (sum) *sum = static_cast<int32_t>(_mm512_reduce_add_epi64(total));
}

void vnni_block_avx512(const VnniBlock& t) {
  const int64_t vectors = (t.cols + 15) / 16;
  // Tiles of even height: 8 rows are better as two of 4 than as one of 6 and one of 2.
  const int64_t tiles = (t.rows + kMaxRows - 1) / kMaxRows;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t row = t.rows * i / tiles, rows = t.rows * (i + 1) / tiles - row;
    kTiles[rows - 1][vectors - 1](t, row);
  }
}

}  // namespace tokamak::cpu
