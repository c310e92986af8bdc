// AMX: tdpbssd multiplies 16 rows of 64 signed bytes by 64 x 16 weights. Tile registers 0 to 3 hold sums, 4 and 5 rows of a, 6 and 7
// weights. Sums of groups leave the tiles after each group, to be scaled and added in vector registers.
//
// A few rows take the weights straight from memory, several tiles of columns at once. Many rows take them in chunks of K that stay in the
// first-level cache while all rows pass.

#include <immintrin.h>

#include "backends/cpu/kernels/quantized_matmul.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-slp-vectorize")
#endif

namespace tokamak::cpu {
namespace {

constexpr int64_t kAhead = 2048;      // bytes that a stream of weights is prefetched ahead
constexpr int64_t kChunkBlocks = 16;  // 2 tiles of 16 KB weights
constexpr int64_t kTile = 1024;       // bytes
constexpr int64_t kVnniRows = 4;      // up to here vector instructions scale groups faster than tiles

// The operand of ldtilecfg, palette 1.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

// For the compiler: g++'s tile loads do not say that they read memory.
inline void memory_barrier() { __asm__ volatile("" ::: "memory"); }

// Sums and a of `a_rows` rows; products over `depth` bytes of K.
void configure(int64_t a_rows, int64_t depth) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.rows[i] = static_cast<uint8_t>(i < 6 ? a_rows : depth / 4);
    config.row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? depth : 64);
  }
  memory_barrier();
  _tile_loadconfig(&config);
}

inline __mmask16 first(int64_t count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }
inline __m512 load_scale(const void* scale, int64_t at, bool half) {
  if (half) return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(scale) + at)));
  return _mm512_loadu_ps(static_cast<const float*>(scale) + at);
}
inline void prefetch(const uint8_t* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T0);
}

// `bytes` of nibbles to twice as many signed bytes.
inline void unpack(const uint8_t* b, int64_t bytes, uint8_t* out) {
  const __m512i low = _mm512_set1_epi8(15), bias = _mm512_set1_epi8(8);
  for (int64_t i = 0; i < bytes; i += 64) {
    const __m512i x = _mm512_loadu_si512(b + i);
    _mm512_store_si512(out + 2 * i, _mm512_sub_epi8(_mm512_and_si512(x, low), bias));
    _mm512_store_si512(out + 2 * i + 64, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(x, 4), low), bias));
  }
}

// Columns of one tile and up to 16 rows, ready but for what the epilogue adds.
inline void finish(const QuantizedBlock& t, int64_t row, int64_t tile, __m512 y) {
  const int64_t col = tile * 16;
  const __mmask16 mask = first(t.cols - col);
  if (t.bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, t.bias + col));
  if (t.residual) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, t.residual + row * t.residual_stride + col));
  _mm512_mask_storeu_ps(t.c + row * t.c_stride + col, mask, y);
}

// ---- one group: integer sums over all of K ----

// Scales the sums of row tile `i` and column tile `tile`, [rows][16].
void scale_sums(const QuantizedBlock& t, int64_t i, int64_t tile, const int32_t* sums) {
  const __m512 scale = load_scale(t.scale, tile * 16, t.half_scale);
  const float* row_scales = t.a.scales + i * 16;
  const int64_t rows = t.rows - i * 16 < 16 ? t.rows - i * 16 : 16;
  for (int64_t r = 0; r < rows; ++r)
    finish(t, i * 16 + r, tile,
           _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + r * 16)), scale), _mm512_set1_ps(row_scales[r])));
}

// The tile instructions take register numbers as literals.
template <int kTile>
inline void store_tile(int32_t* out) {
  if constexpr (kTile == 0) _tile_stored(0, out, 64);
  if constexpr (kTile == 1) _tile_stored(1, out, 64);
  if constexpr (kTile == 2) _tile_stored(2, out, 64);
  if constexpr (kTile == 3) _tile_stored(3, out, 64);
}

// Up to 16 rows by kTiles tiles.
template <int kTiles, bool kNibbles>
void stream_row(const QuantizedBlock& t, int64_t tile) {
  const int64_t blocks = t.panels->k_blocks(), tile_bytes = t.panels->tile_bytes(), a_block = t.a.stride * 64;
  constexpr int64_t kBlockBytes = kNibbles ? kTile / 2 : kTile;
  const uint8_t* const b0 = t.b + tile * tile_bytes;
  const uint8_t* const next = tile + kTiles < t.tiles ? b0 + kTiles * tile_bytes : t.next ? t.next : b0;
  uint8_t* const bytes = static_cast<uint8_t*>(t.scratch);
  int32_t* const sums = reinterpret_cast<int32_t*>(bytes + 8 * kTile);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const int8_t* a = t.a.values;
  for (int64_t k = 0; k < blocks; ++k, a += a_block) {
    const uint8_t* b = b0 + k * kBlockBytes;
    const uint8_t* ahead = k * kBlockBytes + kAhead < tile_bytes ? b + kAhead : next + (k * kBlockBytes + kAhead - tile_bytes);
    const uint8_t* from[kTiles];
#pragma GCC unroll 4
    for (int j = 0; j < kTiles; ++j) {
      prefetch(ahead + j * tile_bytes, kBlockBytes);
      from[j] = b + j * tile_bytes;
      if constexpr (kNibbles) {
        uint8_t* out = bytes + ((k & 1) * 4 + j) * kTile;
        unpack(from[j], kBlockBytes, out);
        from[j] = out;
      }
    }
    memory_barrier();
    _tile_loadd(4, a, 64);
    _tile_loadd(6, from[0], 64);
    _tile_dpbssd(0, 4, 6);
    if constexpr (kTiles > 1) {
      _tile_loadd(7, from[1], 64);
      _tile_dpbssd(1, 4, 7);
    }
    if constexpr (kTiles > 2) {
      _tile_loadd(6, from[2], 64);
      _tile_dpbssd(2, 4, 6);
      _tile_loadd(7, from[3], 64);
      _tile_dpbssd(3, 4, 7);
    }
  }
  store_tile<0>(sums);
  if constexpr (kTiles > 1) store_tile<1>(sums + 256);
  if constexpr (kTiles > 2) {
    store_tile<2>(sums + 512);
    store_tile<3>(sums + 768);
  }
  for (int j = 0; j < kTiles; ++j) scale_sums(t, 0, tile + j, sums + j * 256);
}

template <bool kNibbles>
void stream_rows(const QuantizedBlock& t) {
  configure(t.a.stride, 64);
  int64_t tile = 0;
  for (; tile + 4 <= t.tiles; tile += 4) stream_row<4, kNibbles>(t, tile);
  for (; tile + 2 <= t.tiles; tile += 2) stream_row<2, kNibbles>(t, tile);
  if (tile < t.tiles) stream_row<1, kNibbles>(t, tile);
}

// kRows row tiles by kCols column tiles over `blocks` of K, from what `sums` [rows][cols][tile] holds unless this is the first chunk, back
// to `sums`. `ahead` is what comes next from memory, `lines` of it a block.
struct Chunk {
  const int8_t* a;
  int64_t a_tile;  // bytes
  const uint8_t* b[2];
  int64_t blocks;
  bool first;
  int32_t* sums;
  const uint8_t* ahead;
  int64_t lines;
};
template <int kRows, int kCols>
void multiply(const Chunk& t) {
  memory_barrier();
  if (t.first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, t.sums, 64);
    if (kCols > 1) _tile_loadd(1, t.sums + 256, 64);
    if (kRows > 1) _tile_loadd(2, t.sums + 512, 64);
    if (kRows > 1 && kCols > 1) _tile_loadd(3, t.sums + 768, 64);
  }
  const int8_t *a0 = t.a, *a1 = t.a + t.a_tile;
  const uint8_t *b0 = t.b[0], *b1 = t.b[1], *ahead = t.ahead;
  for (int64_t k = 0; k < t.blocks; ++k, a0 += kTile, a1 += kTile, b0 += kTile, b1 += kTile) {
    for (int64_t i = 0; i < t.lines; ++i, ahead += 64) _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
    // Rows pass through: they should not push the weights out of the first-level cache.
    _tile_stream_loadd(4, a0, 64);
    _tile_loadd(6, b0, 64);
    _tile_dpbssd(0, 4, 6);
    if constexpr (kCols > 1) {
      _tile_loadd(7, b1, 64);
      _tile_dpbssd(1, 4, 7);
    }
    if constexpr (kRows > 1) {
      _tile_stream_loadd(5, a1, 64);
      _tile_dpbssd(2, 5, 6);
      if constexpr (kCols > 1) _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_stored(0, t.sums, 64);
  if (kCols > 1) _tile_stored(1, t.sums + 256, 64);
  if (kRows > 1) _tile_stored(2, t.sums + 512, 64);
  if (kRows > 1 && kCols > 1) _tile_stored(3, t.sums + 768, 64);
}

void chunks_of_k(const QuantizedBlock& t) {
  const QuantizedPanels& panels = *t.panels;
  const int64_t blocks = panels.k_blocks(), chunks = (blocks + kChunkBlocks - 1) / kChunkBlocks;
  const int64_t row_tiles = (t.rows + 15) / 16, row_pairs = (row_tiles + 1) / 2, col_pairs = (t.tiles + 1) / 2;
  const int64_t tile_bytes = panels.tile_bytes(), block_bytes = panels.nibbles ? kTile / 2 : kTile;
  uint8_t* const bytes = static_cast<uint8_t*>(t.scratch);  // the unpacked chunk
  int32_t* const all_sums = reinterpret_cast<int32_t*>(bytes + 2 * kChunkBlocks * kTile);
  configure(16, 64);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t k0 = blocks * chunk / chunks, k1 = blocks * (chunk + 1) / chunks;
    for (int64_t pair = 0; pair < col_pairs; ++pair) {
      const int64_t cols = t.tiles - 2 * pair > 1 ? 2 : 1;
      const uint8_t* b = t.b + 2 * pair * tile_bytes + k0 * block_bytes;
      // What is read next: the same chunk of the next pair, the next chunk, or another unit.
      const uint8_t* ahead = pair + 1 < col_pairs ? b + 2 * tile_bytes : chunk + 1 < chunks ? t.b + k1 * block_bytes : t.next;
      Chunk c;
      c.b[0] = b, c.b[1] = cols > 1 ? b + tile_bytes : b;
      if (panels.nibbles)
        for (int64_t j = 0; j < cols; ++j) {
          unpack(c.b[j], (k1 - k0) * block_bytes, bytes + j * kChunkBlocks * kTile);
          c.b[j] = bytes + j * kChunkBlocks * kTile;
        }
      c.blocks = k1 - k0, c.first = chunk == 0;
      c.a_tile = blocks * kTile;
      const int64_t lines = ahead ? (block_bytes * (k1 - k0) / 64 + row_pairs * c.blocks - 1) / (row_pairs * c.blocks) : 0;
      for (int64_t i = 0; i < row_pairs; ++i) {
        const int64_t rows = row_tiles - 2 * i > 1 ? 2 : 1;
        c.a = t.a.values + 2 * i * c.a_tile + k0 * kTile;
        c.sums = all_sums + (chunks > 1 ? (pair * row_pairs + i) * 1024 : 0);
        // Half of the pairs of rows fetch the first tile, the others the second.
        const int64_t fetched = i * c.blocks * lines * 2, tile_lines = block_bytes * (k1 - k0) / 64;
        c.lines = 2 * lines;
        c.ahead = ahead ? (fetched < tile_lines ? ahead + fetched * 64 : ahead + tile_bytes + (fetched - tile_lines) * 64) : nullptr;
        if (fetched >= 2 * tile_lines) c.lines = 0;
        if (rows > 1) cols > 1 ? multiply<2, 2>(c) : multiply<2, 1>(c);
        else cols > 1 ? multiply<1, 2>(c) : multiply<1, 1>(c);
        if (chunk < chunks - 1) continue;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t j = 0; j < cols; ++j) scale_sums(t, 2 * i + r, 2 * pair + j, c.sums + r * 512 + j * 256);
      }
    }
  }
}

// ---- groups ----

// Up to kRows rows by kTiles tiles, group by group: the tiles multiply a group while the one before is scaled.
template <int kRows, int kTiles, bool kNibbles>
void group_tiles(const QuantizedBlock& t, int64_t tile) {
  const QuantizedPanels& panels = *t.panels;
  const int64_t groups = panels.groups(), tile_bytes = panels.tile_bytes(), k_steps = panels.k_steps(), group_steps = panels.group_steps();
  const bool halves = group_steps % 2 != 0;
  const int64_t steps_a_load = halves ? 1 : 2, load_bytes = steps_a_load * panels.step_bytes();
  const uint8_t* const b0 = t.b + tile * tile_bytes;
  const uint8_t* const next = tile + kTiles < t.tiles ? b0 + kTiles * tile_bytes : t.next ? t.next : b0;
  uint8_t* const bytes = static_cast<uint8_t*>(t.scratch);
  int32_t* const sums = reinterpret_cast<int32_t*>(bytes + 8 * kTile);
  __m512 y[kRows][kTiles];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < kTiles; ++j) y[r][j] = _mm512_setzero_ps();
  int64_t slot = 0;
  for (int64_t g = 0; g <= groups; ++g) {
    if (g < groups) {
      const int64_t begin = g * group_steps, end = begin + group_steps < k_steps ? begin + group_steps : k_steps;
      _tile_zero(0);
      _tile_zero(1);
      for (int64_t step = begin; step < end; step += steps_a_load, slot = (slot + 1) & 3) {
        const int64_t at = step * panels.step_bytes();
        const uint8_t* from[kTiles];
#pragma GCC unroll 2
        for (int j = 0; j < kTiles; ++j) {
          prefetch((at + kAhead < tile_bytes ? b0 + at + kAhead : next + (at + kAhead - tile_bytes)) + j * tile_bytes, load_bytes);
          from[j] = b0 + at + j * tile_bytes;
          if constexpr (kNibbles) {
            uint8_t* out = bytes + (slot * 2 + j) * kTile;
            unpack(from[j], load_bytes, out);
            from[j] = out;
          }
        }
        memory_barrier();
        _tile_loadd(4, t.a.values + (step >> 1) * t.a.stride * 64 + (step & 1) * 32, 64);
        _tile_loadd(6, from[0], 64);
        _tile_dpbssd(0, 4, 6);
        if constexpr (kTiles > 1) {
          _tile_loadd(7, from[1], 64);
          _tile_dpbssd(1, 4, 7);
        }
      }
      store_tile<0>(sums + (g & 1) * 512);
      if constexpr (kTiles > 1) store_tile<1>(sums + (g & 1) * 512 + 256);
    }
    if (g == 0) continue;
    const int64_t done = g - 1;
    const float* row_scales = t.a.scales + done * 16;
#pragma GCC unroll 2
    for (int j = 0; j < kTiles; ++j) {
      const __m512 scale = load_scale(t.scale, ((tile + j) * groups + done) * 16, t.half_scale);
      const int32_t* from = sums + (done & 1) * 512 + j * 256;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r)
        y[r][j] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(from + r * 16)), scale), _mm512_set1_ps(row_scales[r]),
                                  y[r][j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
    if (r < t.rows)
#pragma GCC unroll 2
      for (int j = 0; j < kTiles; ++j) finish(t, r, tile + j, y[r][j]);
}

template <bool kNibbles>
void group_rows(const QuantizedBlock& t) {
  configure(t.a.stride, t.panels->group_steps() % 2 ? 32 : 64);
  for (int64_t i = 0; i * 16 < t.rows; ++i) {
    const QuantizedBlock rows = t.row_tile(i);
    int64_t tile = 0;
    if (rows.rows <= 8)
      for (; tile + 2 <= t.tiles; tile += 2) group_tiles<8, 2, kNibbles>(rows, tile);
    for (; tile < t.tiles; ++tile) group_tiles<16, 1, kNibbles>(rows, tile);
  }
}

void block(const QuantizedBlock& t) {
  const bool nibbles = t.panels->nibbles, groups = t.panels->groups() > 1;
  if (groups && t.rows <= kVnniRows) return quantized_avx512_vnni().block(t);
  if (t.panels->groups() == 0) return quantized_avx512_vnni().block(t);
  if (groups) nibbles ? group_rows<true>(t) : group_rows<false>(t);
  else if (t.rows <= 16) nibbles ? stream_rows<true>(t) : stream_rows<false>(t);
  else chunks_of_k(t);
  _tile_release();
}

int64_t scratch_bytes(const QuantizedPanels&, int64_t rows, int64_t tiles) {
  const int64_t row_pairs = (rows + 31) / 32, col_pairs = (tiles + 1) / 2;
  return (2 * kChunkBlocks + 4 * row_pairs * col_pairs) * kTile;
}

void round_rows(const QuantizedPanels& panels, const float* a, int64_t rows, const QuantizedRows& out) {
  quantized_avx512_vnni().round_rows(panels, a, rows, out);
}

}  // namespace

const QuantizedIsa& quantized_amx() {
  static constexpr QuantizedIsa isa = {round_rows, block, scratch_bytes, 512, 16, 4};
  return isa;
}

}  // namespace tokamak::cpu
