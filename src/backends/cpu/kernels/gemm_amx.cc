#include "backends/cpu/kernels/gemm_amx.h"

#include <immintrin.h>

namespace tokamak::cpu {
namespace {

// The operand of ldtilecfg, palette 1: all eight tiles are 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
constexpr TileConfig kConfig;

inline __mmask16 first(int64_t count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }

}  // namespace

void amx_block(const AmxBlock& t) {
  alignas(64) float sums[32 * 32];
  _tile_loadconfig(&kConfig);
  for (int64_t row = 0; row < t.rows; row += 32) {
    const uint32_t* a = t.a + row * t.a_stride;
    const uint32_t* b = t.b;
    const int64_t a_bytes = t.a_stride * 4;
    // Tiles 0 to 3 are the sums, 4 and 5 rows of A, 6 and 7 columns of B.
    _tile_zero(0);
    _tile_zero(1);
    if (t.rows - row > 16) {
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t k = 0; k < t.k_blocks; ++k, a += 16, b += 2 * AmxPanels::kTilePairs) {
        _tile_loadd(4, a, a_bytes);
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + AmxPanels::kTilePairs, 64);
        _tile_loadd(5, a + 16 * t.a_stride, a_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(2, sums + 16 * 32, 128);
      _tile_stored(3, sums + 16 * 32 + 16, 128);
    } else {
      for (int64_t k = 0; k < t.k_blocks; ++k, a += 16, b += 2 * AmxPanels::kTilePairs) {
        _tile_loadd(4, a, a_bytes);
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + AmxPanels::kTilePairs, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
      }
    }
    _tile_stored(0, sums, 128);
    _tile_stored(1, sums + 16, 128);

    const int64_t rows = t.rows - row < 32 ? t.rows - row : 32;
    const __m512 alpha = _mm512_set1_ps(t.alpha);
    for (int64_t v = 0; v < 2; ++v) {
      const __mmask16 mask = first(t.cols - v * 16);
      if (mask == 0) continue;
      const __m512 bias = t.bias ? _mm512_maskz_loadu_ps(mask, t.bias + v * 16) : _mm512_setzero_ps();
      for (int64_t r = 0; r < rows; ++r) {
        __m512 x = _mm512_fmadd_ps(_mm512_load_ps(sums + r * 32 + v * 16), alpha, bias);
        if (t.residual) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(mask, t.residual + (row + r) * t.residual_stride + v * 16));
        _mm512_mask_storeu_ps(t.c + (row + r) * t.c_stride + v * 16, mask, x);
      }
    }
  }
  _tile_release();
}

}  // namespace tokamak::cpu
