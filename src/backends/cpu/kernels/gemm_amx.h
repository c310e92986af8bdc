#pragma once
// Matrix products on AMX: tiles of 16 rows of 64 bytes, tdpbf16ps multiplies pairs of bfloat16 and adds to f32 sums. All of K is added in
// one order, whatever the number of rows.

#include <cstdint>

namespace tokamak::cpu {

// B[k, n] as bfloat16 pairs (elements 2i and 2i + 1 of K): tiles of 16 columns, each [k / 32][16 pairs][16 columns]. Zero past K and N.
struct AmxPanels {
  static constexpr int64_t kColumns = 16, kBlockPairs = 256;
  int64_t k = 0, n = 0;

  int64_t k_blocks() const { return (k + 31) / 32; }
  int64_t tiles() const { return (n + kColumns - 1) / kColumns; }
  int64_t tile_bytes() const { return k_blocks() * kBlockPairs * 4; }
  int64_t bytes() const { return tiles() * tile_bytes(); }
};
// b(k, n) = b[k * row_stride + n * col_stride].
void amx_pack_b(const AmxPanels& panels, const uint16_t* b, int64_t row_stride, int64_t col_stride, uint32_t* packed);

// Rows of A as bfloat16: tiles of `stride` rows (16, or all of fewer), each [k_blocks][stride][32 of K], zero past K. Rows past the last
// are never stored to C and may hold anything.
struct AmxRows {
  static constexpr int64_t kRows = 16;
  int64_t stride = 0;
  char* tiles = nullptr;

  int64_t tile_bytes(const AmxPanels& panels) const { return panels.k_blocks() * stride * 64; }
};
// Up to a tile of rows of k floats, to tile 0 of `out`.
void amx_round_rows(const AmxPanels& panels, const float* a, int64_t rows, const AmxRows& out);

// c = alpha * A B + bias + residual on some tiles of B; bias and residual may be null. Enter only with cpu_features().amx_bf16.
struct AmxBlock {
  const AmxPanels* panels = nullptr;
  AmxRows a;  // of the first row, which begins a tile
  int64_t rows = 0;
  const uint8_t* b = nullptr;  // of the first tile
  int64_t tiles = 0;
  const uint8_t* next = nullptr;  // what this thread reads afterwards, `next_tiles` of them, for prefetch; null: nothing
  int64_t next_tiles = 0;
  int64_t cols = 0;  // of c
  float alpha = 1;
  const float* bias = nullptr;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
  void* scratch = nullptr;  // amx_scratch_bytes, 64-byte aligned
};
void amx_block(const AmxBlock& block);
int64_t amx_scratch_bytes(const AmxPanels& panels, int64_t rows, int64_t tiles);
constexpr int64_t kAmxMaxRows = 256, kAmxMaxTiles = 16;  // a block is best within, with many rows

}  // namespace tokamak::cpu
