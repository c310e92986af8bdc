// vpdpbusd multiplies unsigned by signed bytes: the weights are the unsigned side (value + 8 or + 128), so that the correction depends on
// the activations alone and the sums start from it.

#include <immintrin.h>

#include "backends/cpu/kernels/quantized_matmul.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-slp-vectorize")
#endif

namespace tokamak::cpu {
namespace {

// Sums are in the builtin's own type: as __m512i g++ 12 keeps a copy of each in memory.
using Sums = int __attribute__((vector_size(64)));

constexpr int64_t kAhead = 2048;  // bytes that each tile is prefetched ahead

inline __mmask16 first(int64_t count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }
inline __m512i broadcast4(const int8_t* p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return _mm512_set1_epi32(x);
}
inline __m512 load_scale(const void* scale, int64_t at, bool half) {
  if (half) return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(scale) + at)));
  return _mm512_loadu_ps(static_cast<const float*>(scale) + at);
}

template <int kRows, int kTiles, bool kNibbles>
void tiles(const QuantizedBlock& t, int64_t row, int64_t tile, int64_t length) {
  const QuantizedPanels& panels = *t.panels;
  const int64_t groups = panels.groups(), group_steps = panels.group_steps(), k_steps = panels.k_steps(), tile_bytes = panels.tile_bytes();
  const uint8_t* const b0 = t.b + tile * tile_bytes;
  const int64_t stream = length * tile_bytes;  // bytes between the tiles that are read at once
  const uint8_t* next[kTiles];
#pragma GCC unroll 4
  for (int j = 0; j < kTiles; ++j) next[j] = t.following(tile, tile_bytes, kTiles, j) - tile_bytes;
  constexpr int64_t kStepBytes = kNibbles ? 256 : 512;
  const __m512i low = _mm512_set1_epi8(15), flip = _mm512_set1_epi8(-128);
  __m512 y[kRows][kTiles];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kTiles; ++j) y[r][j] = _mm512_setzero_ps();
  int64_t step = 0;
  for (int64_t g = 0; g < groups; ++g) {
    Sums sum[kRows][kTiles];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Sums start = (Sums)_mm512_set1_epi32(t.a.offsets[g * 16 + row + r]);
#pragma GCC unroll 4
      for (int j = 0; j < kTiles; ++j) sum[r][j] = start;
    }
    const int64_t end = step + group_steps < k_steps ? step + group_steps : k_steps;
    for (; step < end; ++step) {
      const int8_t* a = t.a.values + ((step >> 1) * t.a.stride + row) * 64 + (step & 1) * 32;
      const uint8_t* b = b0 + step * kStepBytes;
      const int64_t ahead = step * kStepBytes + kAhead;
      const bool stays = ahead < tile_bytes;
#pragma GCC unroll 8
      for (int i = 0; i < kStepBytes / 64; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kTiles; ++j) {
          _mm_prefetch(reinterpret_cast<const char*>((stays ? b0 + j * stream : next[j]) + ahead + i * 64), _MM_HINT_T0);
          const __m512i x = _mm512_loadu_si512(b + j * stream + i * 64);
          if constexpr (kNibbles) {
            const __m512i even = _mm512_and_si512(x, low), odd = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
              sum[r][j] = (Sums)_mm512_dpbusd_epi32((__m512i)sum[r][j], even, broadcast4(a + r * 64 + i * 8));
              sum[r][j] = (Sums)_mm512_dpbusd_epi32((__m512i)sum[r][j], odd, broadcast4(a + r * 64 + i * 8 + 4));
            }
          } else {
            const __m512i unsigned_x = _mm512_xor_si512(x, flip);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r)
              sum[r][j] = (Sums)_mm512_dpbusd_epi32((__m512i)sum[r][j], unsigned_x, broadcast4(a + r * 64 + i * 4));
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < kTiles; ++j) {
      const int64_t at = ((tile + j * length) * groups + g) * 16;
      const __m512 scale = load_scale(t.scale, at, t.half_scale);
      const char* const here = static_cast<const char*>(t.scale) + at * (t.half_scale ? 2 : 4);
      _mm_prefetch(here + 512, _MM_HINT_T0);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
        y[r][j] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps((__m512i)sum[r][j]), scale),
                                  _mm512_set1_ps(t.a.scales[g * 16 + row + r]), y[r][j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kTiles; ++j) {
      const int64_t col = (tile + j * length) * 16;
      const __mmask16 mask = first(t.cols - col);
      if (t.bias) y[r][j] = _mm512_add_ps(y[r][j], _mm512_maskz_loadu_ps(mask, t.bias + col));
      if (t.residual) y[r][j] = _mm512_add_ps(y[r][j], _mm512_maskz_loadu_ps(mask, t.residual + (row + r) * t.residual_stride + col));
      _mm512_mask_storeu_ps(t.c + (row + r) * t.c_stride + col, mask, y[r][j]);
    }
}

// Rows at once and tiles at once: more of one is less of the other, 2 * rows * tiles sums have to stay in registers.
template <bool kNibbles, int kRows, int kTiles>
void all_tiles(const QuantizedBlock& t, int64_t row) {
  int64_t tile = 0;
  if (const int64_t length = t.tiles / kTiles; t.tiles % kTiles == 0) {
    for (; tile < length; ++tile) tiles<kRows, kTiles, kNibbles>(t, row, tile, length);
    return;
  }
  for (; tile + kTiles <= t.tiles; tile += kTiles) tiles<kRows, kTiles, kNibbles>(t, row, tile, 1);
  for (; tile < t.tiles; ++tile) tiles<kRows, 1, kNibbles>(t, row, tile, 1);
}

template <bool kNibbles>
void all_rows(const QuantizedBlock& t) {
  // Of even height: 10 rows are better as two of 5 than as one of 8 and one of 2.
  const int64_t parts = (t.rows + 7) / 8;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t row = t.rows * i / parts;
    switch (t.rows * (i + 1) / parts - row) {
      case 1: all_tiles<kNibbles, 1, 4>(t, row); break;
      case 2: all_tiles<kNibbles, 2, 4>(t, row); break;
      case 3: all_tiles<kNibbles, 3, 4>(t, row); break;
      case 4: all_tiles<kNibbles, 4, 2>(t, row); break;
      case 5: all_tiles<kNibbles, 5, 2>(t, row); break;
      case 6: all_tiles<kNibbles, 6, 2>(t, row); break;
      case 7: all_tiles<kNibbles, 7, 1>(t, row); break;
      default: all_tiles<kNibbles, 8, 1>(t, row); break;
    }
  }
}

void block(const QuantizedBlock& t) {
  for (int64_t i = 0; i * QuantizedRows::kRows < t.rows; ++i)
    t.panels->nibbles ? all_rows<true>(t.row_tile(i)) : all_rows<false>(t.row_tile(i));
}

int64_t scratch_bytes(const QuantizedPanels&, int64_t, int64_t) { return 0; }
int value_bytes(const QuantizedPanels&, int64_t) { return 1; }

void round_rows(const QuantizedPanels& panels, const float* a, int64_t rows, const QuantizedRows& out) {
  const int64_t k = panels.k, blocks = panels.k_blocks(), groups = panels.groups();
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff), ones = _mm512_set1_epi8(1);
  for (int64_t r = 0; r < rows; ++r, a += k) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * panels.group_size, end = k - begin < panels.group_size ? k : begin + panels.group_size;
      // As integers: a NaN is the largest magnitude of all, and makes the scale NaN.
      __m512i largest = _mm512_setzero_si512();
      for (int64_t i = begin; i < end; i += 16)
        largest = _mm512_max_epi32(largest, _mm512_and_si512(magnitude, _mm512_maskz_loadu_epi32(first(end - i), a + i)));
      const int32_t bits = _mm512_reduce_max_epi32(largest);
      float most;
      __builtin_memcpy(&most, &bits, 4);
      const __m512 inverse = _mm512_set1_ps(most > 1e-30f ? 127.0f / most : 0.0f);
      __m512i sum = _mm512_setzero_si512();
      // Whole quarters of a block; what lies past the end of the last group is zero.
      const int64_t last = g == groups - 1 ? blocks * 64 : end;
      for (int64_t i = begin; i < last; i += 16) {
        const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(first(end - i), a + i), inverse));
        const __m128i bytes = _mm512_cvtsepi32_epi8(q);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out.values + (i / 64 * out.stride + r) * 64 + i % 64), bytes);
        sum = _mm512_dpbusd_epi32(sum, ones, _mm512_castsi128_si512(bytes));
      }
      out.scales[g * 16 + r] = most > 1e-30f ? most / 127.0f : most != most ? most : 0.0f;
      out.offsets[g * 16 + r] =
          -quantized_bias(panels.nibbles) * _mm512_reduce_add_epi32(_mm512_zextsi128_si512(_mm512_castsi512_si128(sum)));
    }
  }
}

}  // namespace

const QuantizedIsa& quantized_avx512_vnni() {
  static constexpr QuantizedIsa isa = {round_rows, block, scratch_bytes, value_bytes, 64, 64, 4};
  return isa;
}

}  // namespace tokamak::cpu
