#pragma once
// Loops over AMX tiles, shared by the products on bfloat16 and on bytes. Only for *_amx.cc files; everything is local to the file that
// includes it.
//
// A tile of A is 16 rows of 64 bytes (32 bfloat16 or 64 bytes of K), a tile of B is 16 lines of 16 columns by 4 bytes: 1 KB each. Tile
// registers 0 to 3 hold sums, 4 and 5 rows of A, 6 and 7 columns of B. Rows of A lie in tiles too, [tile][block of K][rows][64 bytes]: a
// power of two between rows would map them all to the same lines of the cache.

#include <immintrin.h>

#include <cstdint>

namespace tokamak::cpu {
namespace {

inline constexpr int64_t kTileBytes = 1024;
inline constexpr int64_t kChunkBlocks = 16;  // of K: two tiles of columns in a chunk are 32 KB, which stay in the first-level cache

// For the compiler: g++'s tile loads do not say that they read memory.
inline void memory_barrier() { __asm__ volatile("" ::: "memory"); }

inline void prefetch_lines(const uint8_t* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T0);
}

// The operand of ldtilecfg, palette 1.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

// Sums and A of `a_rows` rows; products over `depth` bytes of K.
inline void configure_tiles(int64_t a_rows, int64_t depth) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.rows[i] = static_cast<uint8_t>(i < 6 ? a_rows : depth / 4);
    config.row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? depth : 64);
  }
  memory_barrier();
  _tile_loadconfig(&config);
}

inline __mmask16 first(int64_t count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1; }

// sum += a b, in a function with a constant kBf16. (A macro: tile instructions are macros that print register numbers.)
#define TILE_MULTIPLY_ADD(sum, a, b)              \
  if constexpr (kBf16) _tile_dpbf16ps(sum, a, b); \
  else _tile_dpbssd(sum, a, b)

inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}
// Sums of kRows by kCols tiles in [2][2][tile].
template <int kRows, int kCols>
inline void load_sums(const char* sums) {
  _tile_loadd(0, sums, 64);
  if constexpr (kCols > 1) _tile_loadd(1, sums + kTileBytes, 64);
  if constexpr (kRows > 1) _tile_loadd(2, sums + 2 * kTileBytes, 64);
  if constexpr (kRows > 1 && kCols > 1) _tile_loadd(3, sums + 3 * kTileBytes, 64);
}
template <int kRows, int kCols>
inline void store_sums(char* sums) {
  _tile_stored(0, sums, 64);
  if constexpr (kCols > 1) _tile_stored(1, sums + kTileBytes, 64);
  if constexpr (kRows > 1) _tile_stored(2, sums + 2 * kTileBytes, 64);
  if constexpr (kRows > 1 && kCols > 1) _tile_stored(3, sums + 3 * kTileBytes, 64);
}

// ---- few rows: the weights come straight from memory, over all of K ----

// Several tiles of columns are read at once, as streams of consecutive tiles: stream j of a run of `tiles` begins at tile j * length.
// (Every jump of a stream costs walks of page tables that nothing hides.)
inline int64_t stream_length(int64_t tiles, int64_t streams) { return tiles % streams == 0 ? tiles / streams : 1; }

// Up to four tiles of columns, each a stream of blocks `step` bytes apart; `next` is what is read after them.
struct TileStreams {
  const char* a = nullptr;
  int64_t a_block = 0, a_tile = 0;  // bytes between blocks of K, between tiles of rows
  const uint8_t* b[4] = {};
  const uint8_t* next[4] = {};
  int64_t step = 0, blocks = 0;
  char* sums = nullptr;  // [kTiles][tile], or [2][2][tile] for two tiles of rows

  // What is prefetched of stream j while block k is multiplied. Memory gives most while about 32 lines are on their way, asked for in
  // runs of 8 with work between. Of four streams that is the second halves of the blocks at hand, then the first half of the block
  // after each; of fewer, the block after. (Against whole blocks two ahead on Sapphire Rapids: 12 % more in a loop that only reads,
  // 1.5 % of a decode step in bfloat16.)
  void prefetch_this(int j, int64_t k) const { prefetch_lines(b[j] + k * step + step / 2, step / 2); }
  void prefetch_next(int j, int64_t k, int64_t bytes) const { prefetch_lines(k + 1 < blocks ? b[j] + (k + 1) * step : next[j], bytes); }
};
// One tile of rows by kTiles of columns; `ready(j, k, p)` gives block k of stream j, which lies at p, as a tile.
template <bool kBf16, int kTiles, class Ready>
inline void stream_row(const TileStreams& t, const Ready& ready) {
  zero_sums();
  const char* a = t.a;
  for (int64_t k = 0; k < t.blocks; ++k, a += t.a_block) {
    const uint8_t* tile[kTiles];
#pragma GCC unroll 4
    for (int j = 0; kTiles == 4 && j < kTiles; ++j) t.prefetch_this(j, k);
#pragma GCC unroll 4
    for (int j = 0; j < kTiles; ++j) tile[j] = ready(j, k, t.b[j] + k * t.step);
    memory_barrier();
    _tile_loadd(4, a, 64);
    t.prefetch_next(0, k, kTiles == 4 ? t.step / 2 : t.step);
    _tile_loadd(6, tile[0], 64);
    TILE_MULTIPLY_ADD(0, 4, 6);
    if constexpr (kTiles > 1) {
      t.prefetch_next(1, k, kTiles == 4 ? t.step / 2 : t.step);
      _tile_loadd(7, tile[1], 64);
      TILE_MULTIPLY_ADD(1, 4, 7);
    }
    if constexpr (kTiles > 2) {
      t.prefetch_next(2, k, t.step / 2);
      _tile_loadd(6, tile[2], 64);
      TILE_MULTIPLY_ADD(2, 4, 6);
      t.prefetch_next(3, k, t.step / 2);
      _tile_loadd(7, tile[3], 64);
      TILE_MULTIPLY_ADD(3, 4, 7);
    }
  }
  _tile_stored(0, t.sums, 64);
  if constexpr (kTiles > 1) _tile_stored(1, t.sums + kTileBytes, 64);
  if constexpr (kTiles > 2) {
    _tile_stored(2, t.sums + 2 * kTileBytes, 64);
    _tile_stored(3, t.sums + 3 * kTileBytes, 64);
  }
}
// Two tiles of rows by kCols of columns.
template <bool kBf16, int kCols, class Ready>
inline void stream_two_rows(const TileStreams& t, const Ready& ready) {
  zero_sums();
  const char* a = t.a;
  for (int64_t k = 0; k < t.blocks; ++k, a += t.a_block) {
    const uint8_t* tile[kCols];
#pragma GCC unroll 2
    for (int j = 0; j < kCols; ++j) tile[j] = ready(j, k, t.b[j] + k * t.step);
    memory_barrier();
    t.prefetch_next(0, k, t.step);
    _tile_loadd(4, a, 64);
    _tile_loadd(6, tile[0], 64);
    TILE_MULTIPLY_ADD(0, 4, 6);
    _tile_loadd(5, a + t.a_tile, 64);
    TILE_MULTIPLY_ADD(2, 5, 6);
    if constexpr (kCols > 1) {
      t.prefetch_next(1, k, t.step);
      _tile_loadd(7, tile[1], 64);
      TILE_MULTIPLY_ADD(1, 4, 7);
      TILE_MULTIPLY_ADD(3, 5, 7);
    }
  }
  store_sums<2, kCols>(t.sums);
}

// ---- many rows: chunks of K whose weights stay in the first-level cache while all rows pass ----

// kRows by kCols tiles over `blocks` of K, from what `sums` [2][2][tile] holds unless `is_first`, back to `sums`.
struct TileChunk {
  const char* a = nullptr;
  int64_t a_tile = 0;
  const uint8_t* b[2] = {};
  int64_t step = 0;  // bytes between blocks of b
  int64_t blocks = 0;
  bool is_first = false;
  char* sums = nullptr;
  const uint8_t* ahead[2] = {};  // what comes next from memory: `lines` of each are fetched a block
  int64_t lines = 0;
};
// `finish` works off sums of earlier chunks between the tile instructions: some() while more().
template <bool kBf16, int kRows, int kCols, class Finish>
inline void multiply_chunk(const TileChunk& t, Finish& finish) {
  memory_barrier();
  if (t.is_first) zero_sums();
  else load_sums<kRows, kCols>(t.sums);
  const char *a0 = t.a, *a1 = t.a + t.a_tile;
  const uint8_t *b0 = t.b[0], *b1 = t.b[1], *ahead0 = t.ahead[0], *ahead1 = t.ahead[1];
  for (int64_t k = 0; k < t.blocks; ++k, a0 += kTileBytes, a1 += kTileBytes, b0 += t.step, b1 += t.step) {
    // Rows pass through: they should not push the weights out of the first-level cache.
    _tile_stream_loadd(4, a0, 64);
    _tile_loadd(6, b0, 64);
    TILE_MULTIPLY_ADD(0, 4, 6);
    if constexpr (kCols > 1) {
      _tile_loadd(7, b1, 64);
      TILE_MULTIPLY_ADD(1, 4, 7);
    }
    if constexpr (kRows > 1) {
      _tile_stream_loadd(5, a1, 64);
      TILE_MULTIPLY_ADD(2, 5, 6);
      if constexpr (kCols > 1) {
        TILE_MULTIPLY_ADD(3, 5, 7);
      }
    }
    for (int64_t i = 0; i < t.lines; ++i, ahead0 += 64, ahead1 += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead0), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(ahead1), _MM_HINT_T1);
    }
    if (finish.more()) finish.some();
  }
  while (finish.more()) finish.some();
  store_sums<kRows, kCols>(t.sums);
}

// Sums of up to two by two tiles, [2][2][16 rows][16 columns], on their way to c, four rows at a time. `Derived` has begin_tile(row_tile,
// col_tile) and `finished(sums, r)`: row r of the tile as it is stored, but for the residual.
template <class Derived>
class FinishTiles {
 public:
  // Of all of C: rows, columns, and what of each is added.
  FinishTiles(int64_t rows, int64_t cols, float* c, int64_t c_stride, const float* residual, int64_t residual_stride)
      : num_rows_(rows), num_cols_(cols), c_(c), c_stride_(c_stride), residual_(residual), residual_stride_(residual_stride) {}

  void start(const char* sums, int64_t row_tile, int64_t rows, int64_t col_tile, int64_t cols) {
    sums_ = sums, row_tile_ = row_tile, col_tile_ = col_tile;
    two_columns_ = cols > 1;
    fours_ = 0, end_ = rows * cols * 4;
  }
  bool more() const { return fours_ < end_; }
  __attribute__((always_inline)) void some() {
    if ((fours_ & 3) == 0) begin();
    ++fours_;
    if (left_ >= 4 && tile_residual_ == nullptr) {
#pragma GCC unroll 4
      for (int64_t r = 0; r < 4; ++r)
        _mm512_mask_storeu_ps(tile_c_ + r * c_stride_, mask_, derived().finished(tile_sums_ + r * 64, row_ + r));
    } else {
      for (int64_t r = 0; r < 4 && r < left_; ++r) {
        __m512 y = derived().finished(tile_sums_ + r * 64, row_ + r);
        if (tile_residual_) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask_, tile_residual_ + r * residual_stride_));
        _mm512_mask_storeu_ps(tile_c_ + r * c_stride_, mask_, y);
      }
    }
    tile_sums_ += 4 * 64, tile_c_ += 4 * c_stride_, left_ -= 4, row_ += 4;
    if (tile_residual_) tile_residual_ += 4 * residual_stride_;
  }

 private:
  Derived& derived() { return static_cast<Derived&>(*this); }
  void begin() {
    const int64_t tile = fours_ >> 2, i = two_columns_ ? tile >> 1 : tile, j = two_columns_ ? tile & 1 : 0;
    const int64_t row = (row_tile_ + i) * 16, col = (col_tile_ + j) * 16;
    tile_sums_ = sums_ + (2 * i + j) * kTileBytes;
    tile_c_ = c_ + row * c_stride_ + col;
    tile_residual_ = residual_ ? residual_ + row * residual_stride_ + col : nullptr;
    mask_ = first(num_cols_ - col);
    left_ = num_rows_ - row, row_ = 0;
    derived().begin_tile(row_tile_ + i, col_tile_ + j);
  }

  int64_t num_rows_, num_cols_;
  float* c_;
  int64_t c_stride_;
  const float* residual_;
  int64_t residual_stride_;
  const char* sums_ = nullptr;
  int64_t row_tile_ = 0, col_tile_ = 0;
  bool two_columns_ = false;
  int64_t fours_ = 0, end_ = 0;  // of rows, tile after tile
  // The tile at hand, from its next four rows on.
  const char* tile_sums_ = nullptr;
  float* tile_c_ = nullptr;
  const float* tile_residual_ = nullptr;
  __mmask16 mask_ = 0;
  int64_t left_ = 0, row_ = 0;
};

struct TileProduct {
  const char* a = nullptr;  // row tiles of 16 rows, a_tile bytes each
  int64_t a_tile = 0;
  int64_t row_tiles = 0, col_tiles = 0, k_blocks = 0;
  char* sums = nullptr;  // tile_product_scratch
};
constexpr int64_t tile_product_scratch(int64_t row_tiles, int64_t col_tiles, int64_t k_blocks) {
  return k_blocks <= kChunkBlocks ? 4 * kTileBytes : (row_tiles + 1) / 2 * ((col_tiles + 1) / 2) * 4 * kTileBytes;
}
// `weights.chunk(pair, cols, k0, k1, chunk)` fills in b and step of a pair of column tiles, and ahead with the number of lines to fetch of
// each; `finish.start(sums, row_tile, rows, col_tile, cols)` takes finished sums [2][2][tile] of up to two by two tiles, which stay until
// more() is false.
template <bool kBf16, class Weights, class Finish>
inline void multiply_tiles(const TileProduct& p, const Weights& weights, Finish& finish) {
  const int64_t chunks = (p.k_blocks + kChunkBlocks - 1) / kChunkBlocks;
  const int64_t row_pairs = (p.row_tiles + 1) / 2, col_pairs = (p.col_tiles + 1) / 2;
  for (int64_t i = 0; i < chunks; ++i) {
    const int64_t k0 = p.k_blocks * i / chunks, k1 = p.k_blocks * (i + 1) / chunks;
    for (int64_t pair = 0; pair < col_pairs; ++pair) {
      const int64_t cols = p.col_tiles - 2 * pair > 1 ? 2 : 1;
      TileChunk c;
      const int64_t lines = weights.chunk(pair, cols, k0, k1, c), fetches = row_pairs * (k1 - k0);
      c.blocks = k1 - k0, c.is_first = i == 0, c.a_tile = p.a_tile;
      c.lines = (lines + fetches - 1) / fetches;
      for (int64_t rows_at = 0; rows_at < row_pairs; ++rows_at) {
        const int64_t rows = p.row_tiles - 2 * rows_at > 1 ? 2 : 1;
        c.a = p.a + 2 * rows_at * p.a_tile + k0 * kTileBytes;
        c.sums = p.sums + (chunks > 1 ? pair * row_pairs + rows_at : 0) * 4 * kTileBytes;
        if (rows > 1) cols > 1 ? multiply_chunk<kBf16, 2, 2>(c, finish) : multiply_chunk<kBf16, 2, 1>(c, finish);
        else cols > 1 ? multiply_chunk<kBf16, 1, 2>(c, finish) : multiply_chunk<kBf16, 1, 1>(c, finish);
        if (i == chunks - 1) finish.start(c.sums, 2 * rows_at, rows, 2 * pair, cols);
        for (const uint8_t*& ahead : c.ahead) ahead += c.blocks * c.lines * 64;
      }
    }
  }
  while (finish.more()) finish.some();
}

#undef TILE_MULTIPLY_ADD

// Few rows (at most 32): calls multiply(first tile, count, stride) for all tiles of columns, as many together as there are registers for
// sums. Where that divides evenly, each of them walks a stretch of its own: several long streams from memory.
template <class F>
void for_streams(int64_t rows, int64_t tiles, const F& multiply) {
  const int64_t wide = rows > 16 ? 2 : 4;
  int64_t tile = 0;
  if (const int64_t length = tiles / wide; tiles % wide == 0) {
    for (; tile < length; ++tile) multiply(tile, wide, length);
    return;
  }
  for (; tile + wide <= tiles; tile += wide) multiply(tile, wide, 1);
  for (; tile + 2 <= tiles; tile += 2) multiply(tile, 2, 1);
  for (; tile < tiles; ++tile) multiply(tile, 1, 1);
}

}  // namespace
}  // namespace tokamak::cpu
