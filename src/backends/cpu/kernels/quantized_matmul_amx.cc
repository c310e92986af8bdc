// Few rows multiply signed bytes (tdpbssd): a's values by weights as they come from memory, nibbles unpacked a little ahead. With one group
// the sums stay in the tiles for all of K; with several they leave after each, to be scaled and added in vector registers.
//
// Many rows by groups: scaling each group's sums would take longer than multiplying, so weights times scale become bfloat16, in a chunk of
// K at a time, and a is rounded to bfloat16 instead.

#include <immintrin.h>

#include "backends/cpu/kernels/amx_tiles.h"
#include "backends/cpu/kernels/quantized_matmul.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-slp-vectorize")
#endif

namespace tokamak::cpu {
namespace {

// As __m512 g++ 12 keeps a copy of each in memory.
using Floats = float __attribute__((vector_size(64)));

constexpr int64_t kAhead = 4096;              // bytes that a stream of weights is prefetched ahead
constexpr int64_t kVnniRows = 4;              // of groups: up to here vector instructions alone are faster
constexpr int64_t kBytesRows = 32;            // of groups: up to here bytes are faster than bfloat16
constexpr int64_t kBytesAt = 8 * kTileBytes;  // in the scratch: sums, or chunks of weights, then sums

inline __m512 load_scale(const void* scale, int64_t at, bool half) {
  if (half) return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(scale) + at)));
  return _mm512_loadu_ps(static_cast<const float*>(scale) + at);
}

// For gf2p8affine with the constant 0xf8: of each byte, four bits from `shift` on, less 8. Bits 0 to 2 stay, the others are the inverse of
// bit 3.
constexpr int64_t nibble_matrix(int shift) {
  uint64_t rows = 0;  // byte 7 - i gives bit i
  for (int i = 0; i < 8; ++i) rows |= uint64_t{1} << (shift + (i < 3 ? i : 3) + 8 * (7 - i));
  return static_cast<int64_t>(rows);
}

// `bytes` of nibbles to twice as many signed bytes.
inline void unpack(const uint8_t* b, int64_t bytes, uint8_t* out) {
  const __m512i low = _mm512_set1_epi64(nibble_matrix(0)), high = _mm512_set1_epi64(nibble_matrix(4));
  for (int64_t i = 0; i < bytes; i += 64) {
    const __m512i x = _mm512_loadu_si512(b + i);
    _mm512_store_si512(out + 2 * i, _mm512_gf2p8affine_epi64_epi8(x, low, 0xf8));
    _mm512_store_si512(out + 2 * i + 64, _mm512_gf2p8affine_epi64_epi8(x, high, 0xf8));
  }
}

// Integer sums are scaled, others are finished.
template <bool kScaled>
class Finish : public FinishTiles<Finish<kScaled>> {
 public:
  explicit Finish(const QuantizedBlock& t) : FinishTiles<Finish>(t.rows, t.cols, t.c, t.c_stride, t.residual, t.residual_stride), t_(t) {}

  void begin_tile(int64_t row_tile, int64_t col_tile) {
    const int64_t col = col_tile * 16;
    bias_ = t_.bias ? _mm512_maskz_loadu_ps(first(t_.cols - col), t_.bias + col) : _mm512_setzero_ps();
    if constexpr (kScaled) {
      scale_ = load_scale(t_.scale, col, t_.half_scale);
      row_scales_ = t_.a.scales + row_tile * 16;
    }
  }
  __m512 finished(const char* sums, int64_t row) const {
    if constexpr (!kScaled) return _mm512_add_ps(_mm512_load_ps(sums), bias_);
    const __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), scale_);
    return _mm512_add_ps(_mm512_mul_ps(y, _mm512_set1_ps(row_scales_[row])), bias_);
  }

 private:
  const QuantizedBlock& t_;
  __m512 scale_ = _mm512_setzero_ps(), bias_ = _mm512_setzero_ps();
  const float* row_scales_ = nullptr;
};

// ---- one group ----

// Up to two tiles of rows.
template <bool kNibbles>
void stream_rows(const QuantizedBlock& t) {
  const QuantizedPanels& panels = *t.panels;
  const int64_t tile_bytes = panels.tile_bytes();
  uint8_t* const bytes = static_cast<uint8_t*>(t.scratch) + kBytesAt;
  const auto ready = [&](int j, int64_t k, const uint8_t* p) -> const uint8_t* {
    if (!kNibbles) return p;
    uint8_t* out = bytes + ((k & 1) * 4 + j) * kTileBytes;
    unpack(p, kTileBytes / 2, out);
    return out;
  };
  TileStreams s;
  s.a = reinterpret_cast<const char*>(t.a.values);
  s.a_block = t.a.stride * 64, s.a_tile = panels.k_blocks() * s.a_block;
  s.step = kNibbles ? kTileBytes / 2 : kTileBytes, s.blocks = panels.k_blocks();
  s.sums = static_cast<char*>(t.scratch);
  Finish<true> finish(t);
  configure_tiles(t.a.stride, 64);
  const auto multiply = [&](int64_t tile, int64_t count, int64_t length) {
    for (int64_t j = 0; j < count; ++j) {
      s.b[j] = t.b + (tile + j * length) * tile_bytes;
      s.next[j] = t.following(tile, tile_bytes, count, j);
    }
    if (t.rows > 16) {
      count == 2 ? stream_two_rows<false, 2>(s, ready) : stream_two_rows<false, 1>(s, ready);
    } else {
      count == 4 ? stream_row<false, 4>(s, ready) : count == 2 ? stream_row<false, 2>(s, ready) : stream_row<false, 1>(s, ready);
    }
    for (int64_t j = 0; j < count; ++j) {
      finish.start(s.sums + j * kTileBytes, 0, 1, tile + j * length, 1);
      while (finish.more()) finish.some();
      if (t.rows <= 16) continue;
      finish.start(s.sums + (2 + j) * kTileBytes, 1, 1, tile + j * length, 1);
      while (finish.more()) finish.some();
    }
  };
  for_streams(t.rows, t.tiles, multiply);
}

// Where the weights of a chunk are, and what memory is read after them.
struct ChunkSource {
  const QuantizedBlock& t;
  int64_t pairs;  // of column tiles

  // The chunk of bytes after this one, its number of lines a tile.
  int64_t following(int64_t pair, int64_t k0, int64_t k1, int64_t k_blocks, int64_t block_bytes, TileChunk& c) const {
    const int64_t tile_bytes = t.panels->tile_bytes();
    const uint8_t* ahead = pair + 1 < pairs ? t.b + 2 * (pair + 1) * tile_bytes + k0 * block_bytes
                           : k1 < k_blocks  ? t.b + k1 * block_bytes
                                            : t.next;
    if (ahead == nullptr) return 0;
    c.ahead[0] = ahead, c.ahead[1] = ahead + tile_bytes;
    return (k1 - k0) * block_bytes / 64;
  }
};

struct ByteWeights : ChunkSource {
  int64_t chunk(int64_t pair, int64_t cols, int64_t k0, int64_t k1, TileChunk& c) const {
    const bool nibbles = t.panels->nibbles;
    const int64_t tile_bytes = t.panels->tile_bytes(), block_bytes = nibbles ? kTileBytes / 2 : kTileBytes;
    for (int64_t j = 0; j < cols; ++j) {
      c.b[j] = t.b + (2 * pair + j) * tile_bytes + k0 * block_bytes;
      if (!nibbles) continue;
      uint8_t* out = static_cast<uint8_t*>(t.scratch) + j * kChunkBlocks * kTileBytes;
      unpack(c.b[j], (k1 - k0) * block_bytes, out);
      c.b[j] = out;
    }
    if (cols == 1) c.b[1] = c.b[0];
    c.step = kTileBytes;
    return following(pair, k0, k1, t.panels->k_blocks(), block_bytes, c);
  }
};

// ---- groups, many rows ----

// Pairs of floats to pairs of bfloat16: `even` in the low halves. Halves round away from zero.
inline __m512i join(__m512 even, __m512 odd) {
  const __m512i half = _mm512_set1_epi32(0x8000), high = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);
  // low | (odd & high)
  return _mm512_ternarylogic_epi32(low, _mm512_add_epi32(_mm512_castps_si512(odd), half), high, 0xf8);
}

// Half a block (32 of K, one group) of a tile to a block of bfloat16.
template <bool kNibbles>
inline void widen(const uint8_t* b, __m512 scale, uint8_t* out) {
  if constexpr (kNibbles) {
    const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    for (int64_t i = 0; i < 4; ++i, b += 64, out += 256) {
      const __m512i x = _mm512_loadu_si512(b);
      // A lane of a line is 8 values of a column: K 0 to 3 in the low nibbles of its bytes, 4 to 7 in the high ones.
      __m512 y[8];
#pragma GCC unroll 8
      for (int n = 0; n < 8; ++n) y[n] = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(x, 4 * n), values), scale);
      _mm512_store_si512(out, join(y[0], y[2]));
      _mm512_store_si512(out + 64, join(y[4], y[6]));
      _mm512_store_si512(out + 128, join(y[1], y[3]));
      _mm512_store_si512(out + 192, join(y[5], y[7]));
    }
  } else {
    for (int64_t i = 0; i < 8; ++i, b += 64, out += 128) {
      const __m512i x = _mm512_loadu_si512(b);
      __m512 y[4];
#pragma GCC unroll 4
      for (int n = 0; n < 4; ++n) y[n] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 24 - 8 * n), 24)), scale);
      _mm512_store_si512(out, join(y[0], y[1]));
      _mm512_store_si512(out + 64, join(y[2], y[3]));
    }
  }
}

struct Bf16Weights : ChunkSource {
  int64_t chunk(int64_t pair, int64_t cols, int64_t k0, int64_t k1, TileChunk& c) const {
    const QuantizedPanels& panels = *t.panels;
    const int64_t groups = panels.groups(), group_steps = panels.group_steps(), step_bytes = panels.step_bytes();
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t tile = 2 * pair + j;
      uint8_t* out = static_cast<uint8_t*>(t.scratch) + j * kChunkBlocks * kTileBytes;
      c.b[j] = out;
      for (int64_t step = k0; step < k1; ++step, out += kTileBytes) {
        // Past K there may be one more half of a block, of zeros.
        const int64_t g = step / group_steps < groups ? step / group_steps : groups - 1;
        const __m512 scale = load_scale(t.scale, (tile * groups + g) * 16, t.half_scale);
        const uint8_t* from = t.b + tile * panels.tile_bytes() + step * step_bytes;
        panels.nibbles ? widen<true>(from, scale, out) : widen<false>(from, scale, out);
      }
    }
    if (cols == 1) c.b[1] = c.b[0];
    c.step = kTileBytes;
    return following(pair, k0, k1, 2 * panels.k_blocks(), step_bytes, c);
  }
};

template <bool kBf16>
void many_rows(const QuantizedBlock& t) {
  TileProduct p;
  p.a = reinterpret_cast<const char*>(t.a.values);
  p.k_blocks = t.panels->k_blocks() * (kBf16 ? 2 : 1);
  p.a_tile = p.k_blocks * kTileBytes;
  p.row_tiles = (t.rows + 15) / 16, p.col_tiles = t.tiles;
  p.sums = static_cast<char*>(t.scratch) + 2 * kChunkBlocks * kTileBytes;
  configure_tiles(16, 64);
  Finish<!kBf16> finish(t);
  if constexpr (kBf16) multiply_tiles<true>(p, Bf16Weights{{t, (t.tiles + 1) / 2}}, finish);
  else multiply_tiles<false>(p, ByteWeights{{t, (t.tiles + 1) / 2}}, finish);
}

// ---- groups, few rows ----

inline void add_and_store(const QuantizedBlock& t, int64_t row, int64_t tile, __m512 y) {
  const int64_t col = tile * 16;
  const __mmask16 mask = first(t.cols - col);
  if (t.bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, t.bias + col));
  if (t.residual) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, t.residual + row * t.residual_stride + col));
  _mm512_mask_storeu_ps(t.c + row * t.c_stride + col, mask, y);
}

// Up to kRows rows by kTiles tiles, group by group: the tiles multiply a group while the one before is scaled.
template <int kRows, int kTiles, bool kNibbles>
void group_tiles(const QuantizedBlock& t, int64_t tile, int64_t length) {
  const QuantizedPanels& panels = *t.panels;
  const int64_t groups = panels.groups(), tile_bytes = panels.tile_bytes(), k_steps = panels.k_steps(), group_steps = panels.group_steps();
  const bool halves = group_steps % 2 != 0;
  const int64_t steps_a_load = halves ? 1 : 2, load_bytes = steps_a_load * panels.step_bytes();
  const uint8_t* const b0 = t.b + tile * tile_bytes;
  const int64_t stream = length * tile_bytes;
  const uint8_t* next[kTiles];
  for (int j = 0; j < kTiles; ++j) next[j] = t.following(tile, tile_bytes, kTiles, j) - tile_bytes;
  uint8_t* const bytes = static_cast<uint8_t*>(t.scratch);
  int32_t* const sums = reinterpret_cast<int32_t*>(bytes + 8 * kTileBytes);
  Floats y[kRows][kTiles];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < kTiles; ++j) y[r][j] = Floats{};
  // Tiles are slow to load what was stored just before: nibbles are unpacked two loads ahead.
  const int64_t loads = (k_steps + steps_a_load - 1) / steps_a_load;
  const auto unpack_load = [&](int64_t load) {
    if constexpr (kNibbles)
#pragma GCC unroll 2
      for (int j = 0; j < kTiles; ++j) unpack(b0 + load * load_bytes + j * stream, load_bytes, bytes + ((load & 3) * 2 + j) * kTileBytes);
  };
  unpack_load(0);
  if (loads > 1) unpack_load(1);
  const int64_t group_bytes = group_steps * panels.step_bytes();
  int64_t load = 0;
  for (int64_t g = 0; g <= groups; ++g) {
    if (g < groups) {
      const int64_t begin = g * group_steps, end = begin + group_steps < k_steps ? begin + group_steps : k_steps;
      _tile_zero(0);
      _tile_zero(1);
      for (int64_t step = begin; step < end; step += steps_a_load, ++load) {
        if (load + 2 < loads) unpack_load(load + 2);
        const uint8_t* from = kNibbles ? bytes + (load & 3) * 2 * kTileBytes : b0 + load * load_bytes;
        memory_barrier();
        _tile_loadd(4, t.a.values + (step >> 1) * t.a.stride * 64 + (step & 1) * 32, 64);
        _tile_loadd(6, from, 64);
        _tile_dpbssd(0, 4, 6);
        if constexpr (kTiles > 1) {
          _tile_loadd(7, from + (kNibbles ? kTileBytes : stream), 64);
          _tile_dpbssd(1, 4, 7);
        }
      }
      _tile_stored(0, sums + (g & 1) * 512, 64);
      if constexpr (kTiles > 1) _tile_stored(1, sums + (g & 1) * 512 + 256, 64);
    }
    if (g == 0) continue;
    const int64_t done = g - 1;
    const float* row_scales = t.a.scales + done * 16;
#pragma GCC unroll 2
    for (int j = 0; j < kTiles; ++j) {
      const int64_t ahead_at = done * group_bytes + kAhead;
      const uint8_t* const ahead = (ahead_at < tile_bytes ? b0 + j * stream : next[j]) + ahead_at;
      const int64_t at = ((tile + j * length) * groups + done) * 16;
      const __m512 scale = load_scale(t.scale, at, t.half_scale);
      _mm_prefetch(static_cast<const char*>(t.scale) + at * (t.half_scale ? 2 : 4) + 512, _MM_HINT_T0);
      const int32_t* from = sums + (done & 1) * 512 + j * 256;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        // A line here and there: in a row they would stop what follows until memory has answered.
        for (int64_t i = r * 64; i < group_bytes; i += kRows * 64) _mm_prefetch(reinterpret_cast<const char*>(ahead + i), _MM_HINT_T0);
        y[r][j] = (Floats)_mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(from + r * 16)), scale),
                                          _mm512_set1_ps(row_scales[r]), (__m512)y[r][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
    if (r < t.rows)
#pragma GCC unroll 2
      for (int j = 0; j < kTiles; ++j) add_and_store(t, r, tile + j * length, (__m512)y[r][j]);
}

// Up to 8 rows of bytes by four tiles, in groups of whole blocks: four streams from memory, as with one group. The rows of the result do
// not fit the registers and lie in the scratch.
void group_streams(const QuantizedBlock& t, int64_t tile, int64_t length) {
  const QuantizedPanels& panels = *t.panels;
  const int64_t groups = panels.groups(), tile_bytes = panels.tile_bytes(), group_blocks = panels.group_steps() / 2;
  TileStreams s;
  s.step = kTileBytes, s.blocks = panels.k_blocks();
  for (int j = 0; j < 4; ++j) {
    s.b[j] = t.b + (tile + j * length) * tile_bytes;
    s.next[j] = t.following(tile, tile_bytes, 4, j);
  }
  char* const sums = static_cast<char*>(t.scratch) + kBytesAt;  // [2][4][tile]
  float* const y = reinterpret_cast<float*>(sums + 8 * kTileBytes);
  for (int64_t i = 0; i < t.rows * 4; ++i) _mm512_store_ps(y + i * 16, _mm512_setzero_ps());
  const int8_t* a = t.a.values;
  int64_t k = 0;
  for (int64_t g = 0; g <= groups; ++g) {
    if (g < groups) {
      zero_sums();
      for (const int64_t end = k + group_blocks < s.blocks ? k + group_blocks : s.blocks; k < end; ++k, a += t.a.stride * 64) {
        for (int j = 0; j < 4; ++j) s.prefetch_this(j, k);
        memory_barrier();
        _tile_loadd(4, a, 64);
        s.prefetch_next(0, k, kTileBytes / 2);
        _tile_loadd(6, s.b[0] + k * kTileBytes, 64);
        _tile_dpbssd(0, 4, 6);
        s.prefetch_next(1, k, kTileBytes / 2);
        _tile_loadd(7, s.b[1] + k * kTileBytes, 64);
        _tile_dpbssd(1, 4, 7);
        s.prefetch_next(2, k, kTileBytes / 2);
        _tile_loadd(6, s.b[2] + k * kTileBytes, 64);
        _tile_dpbssd(2, 4, 6);
        s.prefetch_next(3, k, kTileBytes / 2);
        _tile_loadd(7, s.b[3] + k * kTileBytes, 64);
        _tile_dpbssd(3, 4, 7);
      }
      store_sums<2, 2>(sums + (g & 1) * 4 * kTileBytes);
    }
    if (g == 0) continue;
    const int64_t done = g - 1;
    const float* row_scales = t.a.scales + done * 16;
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t at = ((tile + j * length) * groups + done) * 16;
      const __m512 scale = load_scale(t.scale, at, t.half_scale);
      _mm_prefetch(static_cast<const char*>(t.scale) + at * (t.half_scale ? 2 : 4) + 512, _MM_HINT_T0);
      const char* from = sums + ((done & 1) * 4 + j) * kTileBytes;
      for (int64_t r = 0; r < t.rows; ++r) {
        float* to = y + (r * 4 + j) * 16;
        const __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(from + r * 64)), scale);
        _mm512_store_ps(to, _mm512_fmadd_ps(x, _mm512_set1_ps(row_scales[r]), _mm512_load_ps(to)));
      }
    }
  }
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t j = 0; j < 4; ++j) add_and_store(t, r, tile + j * length, _mm512_load_ps(y + (r * 4 + j) * 16));
}

template <bool kNibbles>
void group_rows(const QuantizedBlock& t) {
  configure_tiles(t.a.stride, t.panels->group_steps() % 2 ? 32 : 64);
  for (int64_t i = 0; i * 16 < t.rows; ++i) {
    const QuantizedBlock rows = t.row_tile(i);
    const bool whole_blocks = t.panels->group_steps() % 2 == 0;
    int64_t tile = 0;
    if (!kNibbles && whole_blocks && rows.rows <= 8 && t.tiles % 4 == 0) {
      for (const int64_t length = t.tiles / 4; tile < length; ++tile) group_streams(rows, tile, length);
    } else if (rows.rows <= 8 && t.tiles % 2 == 0) {
      for (const int64_t length = t.tiles / 2; tile < length; ++tile) group_tiles<8, 2, kNibbles>(rows, tile, length);
    } else {
      for (; tile < t.tiles; ++tile) group_tiles<16, 1, kNibbles>(rows, tile, t.tiles);
    }
  }
}

// ----

void block(const QuantizedBlock& t) {
  const bool nibbles = t.panels->nibbles;
  const int64_t groups = t.panels->groups();
  if (groups == 0 || (groups > 1 && t.rows <= kVnniRows && t.a.value_bytes == 1)) return quantized_avx512_vnni().block(t);
  if (t.a.value_bytes == 2) many_rows<true>(t);
  else if (groups > 1) nibbles ? group_rows<true>(t) : group_rows<false>(t);
  else if (t.rows <= 32) nibbles ? stream_rows<true>(t) : stream_rows<false>(t);
  else many_rows<false>(t);
  _tile_release();
}

int64_t scratch_bytes(const QuantizedPanels& panels, int64_t rows, int64_t tiles) {
  return 2 * kChunkBlocks * kTileBytes + tile_product_scratch((rows + 15) / 16, tiles, 2 * panels.k_blocks());
}

int value_bytes(const QuantizedPanels& panels, int64_t rows) { return panels.groups() > 1 && rows > kBytesRows ? 2 : 1; }

void round_rows(const QuantizedPanels& panels, const float* a, int64_t rows, const QuantizedRows& out) {
  if (out.value_bytes == 1) return quantized_avx512_vnni().round_rows(panels, a, rows, out);
  for (int64_t r = 0; r < rows; ++r, a += panels.k) {
    char* to = reinterpret_cast<char*>(out.values) + r * 64;
    for (int64_t k = 0; k < 64 * panels.k_blocks(); k += 32, to += out.stride * 64) {
      const __m512 low = _mm512_maskz_loadu_ps(first(panels.k - k), a + k),
                   high = _mm512_maskz_loadu_ps(first(panels.k - k - 16), a + k + 16);
      _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
  }
}

}  // namespace

const QuantizedIsa& quantized_amx() {
  static constexpr QuantizedIsa isa = {round_rows, block, scratch_bytes, value_bytes, 256, 16, 4};
  return isa;
}

}  // namespace tokamak::cpu
