#include "backends/cpu/kernels/gemm_amx.h"

#include <immintrin.h>

#include "backends/cpu/kernels/amx_tiles.h"

namespace tokamak::cpu {
namespace {

constexpr int64_t kAhead = 2048;  // bytes that a stream of weights is prefetched ahead

// Sums of up to two row tiles by two column tiles, [2][2][16 rows][16], on their way to c, four rows at a time.
class Finish {
 public:
  explicit Finish(const AmxBlock& block) : t_(block) {}

  void start(const char* sums, int64_t row_tile, int64_t rows, int64_t col_tile, int64_t cols) {
    sums_ = sums, row_tile_ = row_tile, col_tile_ = col_tile, cols_ = cols;
    at_ = 0, end_ = rows * cols * 4;
  }
  bool more() const { return at_ < end_; }
  void some() {
    const int64_t tile = at_ >> 2, r0 = (at_ & 3) * 4, i = tile / cols_, j = tile % cols_;
    ++at_;
    const int64_t row = (row_tile_ + i) * 16 + r0, col = (col_tile_ + j) * 16;
    const __mmask16 mask = first(t_.cols - col);
    const __m512 alpha = _mm512_set1_ps(t_.alpha), bias = t_.bias ? _mm512_maskz_loadu_ps(mask, t_.bias + col) : _mm512_setzero_ps();
    const char* from = sums_ + (i * 2 + j) * kTileBytes + r0 * 64;
    float* c = t_.c + row * t_.c_stride + col;
    const float* residual = t_.residual ? t_.residual + row * t_.residual_stride + col : nullptr;
#pragma GCC unroll 4
    for (int64_t r = 0; r < 4; ++r) {
      if (row + r >= t_.rows) return;
      __m512 y = _mm512_fmadd_ps(_mm512_load_ps(from + r * 64), alpha, bias);
      if (residual) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, residual + r * t_.residual_stride));
      _mm512_mask_storeu_ps(c + r * t_.c_stride, mask, y);
    }
  }

 private:
  const AmxBlock& t_;
  const char* sums_ = nullptr;
  int64_t row_tile_ = 0, col_tile_ = 0, cols_ = 1;
  int64_t at_ = 0, end_ = 0;  // fours of rows, tile after tile
};

// Up to two tiles of rows.
void few_rows(const AmxBlock& t) {
  const auto ready = [](int, int64_t, const uint8_t* p, const uint8_t* later) {
    for (int64_t i = 0; i < kTileBytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(later + i), _MM_HINT_T0);
    return p;
  };
  const int64_t tile_bytes = t.panels->tile_bytes();
  TileStreams s;
  s.a = t.a.tiles, s.a_block = t.a.stride * 64, s.a_tile = t.a.tile_bytes(*t.panels);
  s.step = kTileBytes, s.blocks = t.panels->k_blocks(), s.ahead = kAhead;
  s.sums = static_cast<char*>(t.scratch);
  Finish finish(t);
  const auto multiply = [&](int64_t tile, int64_t count, int64_t length) {
    const bool last = length > 1 ? tile + 1 == length : tile + count >= t.tiles;
    for (int64_t j = 0; j < count; ++j) {
      s.b[j] = t.b + (tile + j * length) * tile_bytes;
      s.next[j] = !last    ? s.b[j] + (length > 1 ? 1 : count) * tile_bytes
                  : t.next ? t.next + j * stream_length(t.next_tiles, count) * tile_bytes
                           : s.b[j];
    }
    if (t.rows > 16) {
      count == 2 ? stream_two_rows<true, 2>(s, ready) : stream_two_rows<true, 1>(s, ready);
    } else {
      count == 4 ? stream_row<true, 4>(s, ready) : count == 2 ? stream_row<true, 2>(s, ready) : stream_row<true, 1>(s, ready);
    }
    for (int64_t j = 0; j < count; ++j)
      for (int64_t i = 0; i * 16 < t.rows; ++i) {
        finish.start(s.sums + (2 * i + j) * kTileBytes, i, 1, tile + j * length, 1);
        while (finish.more()) finish.some();
      }
  };
  const int64_t wide = t.rows > 16 ? 2 : 4;
  int64_t tile = 0;
  if (const int64_t length = t.tiles / wide; t.tiles % wide == 0) {
    for (; tile < length; ++tile) multiply(tile, wide, length);
    return;
  }
  for (; tile + wide <= t.tiles; tile += wide) multiply(tile, wide, 1);
  for (; tile < t.tiles; ++tile) multiply(tile, 1, 1);
}

struct TileWeights {
  const AmxBlock& t;

  int64_t chunk(int64_t pair, int64_t cols, int64_t k0, int64_t k1, TileChunk& c) const {
    const int64_t tile_bytes = t.panels->tile_bytes();
    c.b[0] = t.b + 2 * pair * tile_bytes + k0 * kTileBytes;
    c.b[1] = cols > 1 ? c.b[0] + tile_bytes : c.b[0];
    c.step = kTileBytes;
    const uint8_t* ahead = 2 * (pair + 1) < t.tiles ? c.b[0] + 2 * tile_bytes : k1 < t.panels->k_blocks() ? t.b + k1 * kTileBytes : t.next;
    if (ahead == nullptr) return 0;
    c.ahead[0] = ahead, c.ahead[1] = ahead + tile_bytes;
    return (k1 - k0) * kTileBytes / 64;
  }
};

}  // namespace

void amx_round_rows(const AmxPanels& panels, const float* a, int64_t rows, const AmxRows& out) {
  for (int64_t r = 0; r < rows; ++r, a += panels.k) {
    char* to = out.tiles + r * 64;
    for (int64_t k = 0; k < panels.k; k += 32, to += out.stride * 64) {
      const __m512 low = _mm512_maskz_loadu_ps(first(panels.k - k), a + k);
      const __m512 high = _mm512_maskz_loadu_ps(first(panels.k - k - 16), a + k + 16);
      _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
  }
}

void amx_block(const AmxBlock& t) {
  configure_tiles(t.a.stride, 64);
  if (t.rows <= 32) {
    few_rows(t);
  } else {
    TileProduct p;
    p.a = t.a.tiles, p.a_tile = t.a.tile_bytes(*t.panels);
    p.k_blocks = t.panels->k_blocks();
    p.row_tiles = (t.rows + 15) / 16, p.col_tiles = t.tiles;
    p.sums = static_cast<char*>(t.scratch);
    Finish finish(t);
    multiply_tiles<true>(p, TileWeights{t}, finish);
  }
  _tile_release();
}

int64_t amx_scratch_bytes(const AmxPanels& panels, int64_t rows, int64_t tiles) {
  return tile_product_scratch((rows + 15) / 16, tiles, panels.k_blocks());
}

}  // namespace tokamak::cpu
