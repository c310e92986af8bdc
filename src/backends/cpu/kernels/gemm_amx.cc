#include "backends/cpu/kernels/gemm_amx.h"

#include <immintrin.h>

#include "backends/cpu/kernels/amx_tiles.h"

namespace tokamak::cpu {
namespace {

class Finish : public FinishTiles<Finish> {
 public:
  explicit Finish(const AmxBlock& t)
      : FinishTiles(t.rows, t.cols, t.c, t.c_stride, t.residual, t.residual_stride), t_(t), alpha_(_mm512_set1_ps(t.alpha)) {}

  void begin_tile(int64_t, int64_t col_tile) {
    bias_ = t_.bias ? _mm512_maskz_loadu_ps(first(t_.cols - col_tile * 16), t_.bias + col_tile * 16) : _mm512_setzero_ps();
  }
  __m512 finished(const char* sums, int64_t) const { return _mm512_fmadd_ps(_mm512_load_ps(sums), alpha_, bias_); }

 private:
  const AmxBlock& t_;
  __m512 alpha_, bias_ = _mm512_setzero_ps();
};

// Up to two tiles of rows.
void few_rows(const AmxBlock& t) {
  const auto ready = [](int, int64_t, const uint8_t* p) { return p; };
  const int64_t tile_bytes = t.panels->tile_bytes();
  TileStreams s;
  s.a = t.a.tiles, s.a_block = t.a.stride * 64, s.a_tile = t.a.tile_bytes(*t.panels);
  s.step = kTileBytes, s.blocks = t.panels->k_blocks();
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
  for_streams(t.rows, t.tiles, multiply);
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
