// vpmaddubsw multiplies unsigned by signed bytes and adds pairs in 16 bits. Nibbles are the unsigned side as they are: 15 * 127 * 2 a pair,
// eight pairs fit. Of 8-bit weights the magnitude is: 128 * 127 * 2 fits just once; their sign goes to the activations.

#include <immintrin.h>

#include "backends/cpu/kernels/quantized_matmul.h"

namespace tokamak::cpu {
namespace {

constexpr int64_t kAhead = 2048;  // bytes that the weights are prefetched ahead

inline __m256i broadcast4(const int8_t* p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return _mm256_set1_epi32(x);
}
inline __m256 load_scale(const void* scale, int64_t at, bool half) {
  if (half) return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(scale) + at)));
  return _mm256_loadu_ps(static_cast<const float*>(scale) + at);
}
// The first `count` floats; the others are zero.
inline __m256i first(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count < 8 ? count : 8)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// kRows rows by a tile, as two vectors of 8 columns.
template <int kRows, bool kNibbles>
void tile(const QuantizedBlock& t, int64_t row, int64_t tile) {
  const QuantizedPanels& panels = *t.panels;
  const int64_t groups = panels.groups(), group_steps = panels.group_steps(), k_steps = panels.k_steps();
  const uint8_t* b = t.b + tile * panels.tile_bytes();
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 y[kRows][2];
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) y[r][0] = y[r][1] = _mm256_setzero_ps();
  int64_t step = 0;
  for (int64_t g = 0; g < groups; ++g) {
    __m256i sum[kRows][2];
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r)
      sum[r][0] = sum[r][1] = kNibbles ? _mm256_set1_epi32(t.a.offsets[g * 16 + row + r]) : _mm256_setzero_si256();
    const int64_t end = step + group_steps < k_steps ? step + group_steps : k_steps;
    for (; step < end; ++step) {
      const int8_t* a = t.a.values + ((step >> 1) * t.a.stride + row) * 64 + (step & 1) * 32;
      if constexpr (kNibbles) {
        __m256i pairs[kRows][2];
#pragma GCC unroll 2
        for (int r = 0; r < kRows; ++r) pairs[r][0] = pairs[r][1] = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i, b += 64) {
          _mm_prefetch(reinterpret_cast<const char*>(b + kAhead), _MM_HINT_T0);
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
            const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b) + h);
            const __m256i even = _mm256_and_si256(x, low), odd = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
#pragma GCC unroll 2
            for (int r = 0; r < kRows; ++r) {
              pairs[r][h] = _mm256_add_epi16(pairs[r][h], _mm256_maddubs_epi16(even, broadcast4(a + r * 64 + i * 8)));
              pairs[r][h] = _mm256_add_epi16(pairs[r][h], _mm256_maddubs_epi16(odd, broadcast4(a + r * 64 + i * 8 + 4)));
            }
          }
        }
#pragma GCC unroll 2
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) sum[r][h] = _mm256_add_epi32(sum[r][h], _mm256_madd_epi16(pairs[r][h], ones));
      } else {
        for (int i = 0; i < 8; ++i, b += 64) {
          _mm_prefetch(reinterpret_cast<const char*>(b + kAhead), _MM_HINT_T0);
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
            const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b) + h), magnitude = _mm256_abs_epi8(x);
#pragma GCC unroll 2
            for (int r = 0; r < kRows; ++r) {
              const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(broadcast4(a + r * 64 + i * 4), x));
              sum[r][h] = _mm256_add_epi32(sum[r][h], _mm256_madd_epi16(pairs, ones));
            }
          }
        }
      }
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256 scale = load_scale(t.scale, (tile * groups + g) * 16 + h * 8, t.half_scale);
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r)
        y[r][h] =
            _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sum[r][h]), scale), _mm256_set1_ps(t.a.scales[g * 16 + row + r]), y[r][h]);
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const int64_t col = tile * 16 + h * 8;
      if (col >= t.cols) continue;
      const __m256i mask = first(t.cols - col);
      if (t.bias) y[r][h] = _mm256_add_ps(y[r][h], _mm256_maskload_ps(t.bias + col, mask));
      if (t.residual) y[r][h] = _mm256_add_ps(y[r][h], _mm256_maskload_ps(t.residual + (row + r) * t.residual_stride + col, mask));
      _mm256_maskstore_ps(t.c + (row + r) * t.c_stride + col, mask, y[r][h]);
    }
}

template <bool kNibbles>
void all_tiles(const QuantizedBlock& t) {
  for (int64_t j = 0; j < t.tiles; ++j) {
    int64_t row = 0;
    for (; row + 2 <= t.rows; row += 2) tile<2, kNibbles>(t, row, j);
    if (row < t.rows) tile<1, kNibbles>(t, row, j);
  }
}

void block(const QuantizedBlock& t) {
  for (int64_t i = 0; i * QuantizedRows::kRows < t.rows; ++i)
    t.panels->nibbles ? all_tiles<true>(t.row_tile(i)) : all_tiles<false>(t.row_tile(i));
}

int64_t scratch_bytes(const QuantizedPanels&, int64_t, int64_t) { return 0; }
int value_bytes(const QuantizedPanels&, int64_t) { return 1; }

void round_rows(const QuantizedPanels& panels, const float* a, int64_t rows, const QuantizedRows& out) {
  const int64_t k = panels.k, blocks = panels.k_blocks(), groups = panels.groups();
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  for (int64_t r = 0; r < rows; ++r, a += k) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * panels.group_size, end = k - begin < panels.group_size ? k : begin + panels.group_size;
      // As integers: a NaN is the largest magnitude of all, and makes the scale NaN.
      __m256i largest = _mm256_setzero_si256();
      for (int64_t i = begin; i < end; i += 8)
        largest = _mm256_max_epi32(largest,
                                   _mm256_and_si256(magnitude, _mm256_maskload_epi32(reinterpret_cast<const int*>(a + i), first(end - i))));
      alignas(32) int32_t lanes[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
      int32_t bits = 0;
      for (int32_t lane : lanes) bits = bits < lane ? lane : bits;
      float most;
      __builtin_memcpy(&most, &bits, 4);
      const __m256 inverse = _mm256_set1_ps(most > 1e-30f ? 127.0f / most : 0.0f);
      __m256i sum = _mm256_setzero_si256();
      // Whole eighths of a block; what lies past the end of the last group is zero.
      const int64_t last = g == groups - 1 ? blocks * 64 : end;
      for (int64_t i = begin; i < last; i += 8) {
        const __m256 x = i < end ? _mm256_maskload_ps(a + i, first(end - i)) : _mm256_setzero_ps();
        const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
        sum = _mm256_add_epi32(sum, q);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out.values + (i / 64 * out.stride + r) * 64 + i % 64), _mm_packs_epi16(words, words));
      }
      _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
      uint32_t total = 0;
      for (int32_t lane : lanes) total += static_cast<uint32_t>(lane);
      out.scales[g * 16 + r] = most > 1e-30f ? most / 127.0f : most != most ? most : 0.0f;
      out.offsets[g * 16 + r] = static_cast<int32_t>(total * static_cast<uint32_t>(-quantized_bias(panels.nibbles)));
    }
  }
}

}  // namespace

const QuantizedIsa& quantized_avx2() {
  static constexpr QuantizedIsa isa = {round_rows, block, scratch_bytes, value_bytes, 64, 64, 4};
  return isa;
}

}  // namespace tokamak::cpu
