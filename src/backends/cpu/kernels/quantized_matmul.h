#pragma once
// quantized_matmul's storage and the functions of an instruction set. All kernels share one layout of the weights, so that an engine built
// for one CPU runs on another, and one arithmetic: a group's products are summed exactly in integers, then
//   y = fma(float(sum) * weight scale, activation scale, y)   group after group,
// so that a row's result does not depend on how many rows there are. (Except on AMX, with more than 32 rows and more than one group.)

#include <cstdint>

#include "base/dtype.h"

namespace tokamak::cpu {

// Weights b [n, k]: tiles of 16 columns (of the product), one after the other, each [ceil(k / 64)][16][16 columns][4 k], zero past n and k.
// i8 is stored as it is. i4 is stored as value + 8, and two lines [16 columns][4 k] share one: line 2i in the low nibbles, 2i + 1 in the
// high ones. Scales: [tiles][groups][16 columns] in their own type, zero past n.
struct QuantizedPanels {
  static constexpr int64_t kColumns = 16, kBlock = 64, kStep = 32;  // a step is half a block: the smallest group
  int64_t n = 0, k = 0, group_size = 0;
  bool nibbles = false;

  int64_t tiles() const { return (n + kColumns - 1) / kColumns; }
  int64_t k_blocks() const { return (k + kBlock - 1) / kBlock; }
  int64_t k_steps() const { return (k + kStep - 1) / kStep; }
  int64_t groups() const { return k == 0 ? 0 : (k - 1) / group_size + 1; }
  int64_t group_steps() const { return groups() == 1 ? k_steps() : group_size / kStep; }
  int64_t step_bytes() const { return kColumns * kStep / (nibbles ? 2 : 1); }
  int64_t tile_bytes() const { return k_blocks() * 2 * step_bytes(); }
  int64_t bytes() const { return tiles() * tile_bytes(); }
  int64_t num_scales() const { return tiles() * groups() * kColumns; }
};
// `b` dense as the op has it. `scale` and `packed` are arrays of `scale_bytes`-wide elements.
void quantized_pack_weights(const QuantizedPanels& panels, const uint8_t* b, uint8_t* packed);
void quantized_pack_scales(const QuantizedPanels& panels, const void* scale, int scale_bytes, void* packed);

// Rows of a, rounded to 8 bits a group: value = round(a / scale), scale = max |a| / 127. In tiles of 16 rows; where there are fewer rows
// in all, of just those. The last of several tiles may have rows that nobody wrote.
struct QuantizedRows {
  static constexpr int64_t kRows = 16;
  int64_t stride = 0;          // rows of a tile
  int value_bytes = 1;         // 2: bfloat16 instead, [tiles][2 * k_blocks][stride][32], and neither scales nor offsets
  int8_t* values = nullptr;    // [tiles][k_blocks][stride][64], zero past k
  float* scales = nullptr;     // [tiles][groups][16]
  int32_t* offsets = nullptr;  // [tiles][groups][16]: minus the sum of the group's values times quantized_bias

  QuantizedRows tile(const QuantizedPanels& panels, int64_t i) const {
    return {stride, value_bytes, values + i * panels.k_blocks() * stride * 64 * value_bytes, scales + i * panels.groups() * kRows,
            offsets + i * panels.groups() * kRows};
  }
};
// What a kernel adds to the weights to make them unsigned.
constexpr int32_t quantized_bias(bool nibbles) { return nibbles ? 8 : 128; }

// c = rows of a times some tiles of b, + bias + residual.
struct QuantizedBlock {
  const QuantizedPanels* panels = nullptr;
  QuantizedRows a;  // of the first row, which begins a tile
  int64_t rows = 0;
  const uint8_t* b = nullptr;   // of the first tile
  const void* scale = nullptr;  // of the first tile
  bool half_scale = false;      // f16, else f32
  int64_t tiles = 0;
  int64_t cols = 0;               // of c: tiles * 16, less in the last tile
  const uint8_t* next = nullptr;  // what this thread reads afterwards, `next_tiles` of them, for prefetch; null: nothing
  int64_t next_tiles = 0;
  const float* bias = nullptr;  // of the first column; null: none
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
  void* scratch = nullptr;  // QuantizedIsa::scratch_bytes, 64-byte aligned

  // Several tiles are read at once, as streams of consecutive tiles each: stream j begins at tile j * stream_tiles. (Every jump of a stream
  // costs walks of page tables that nothing hides.) What they read after `tile` of the first stream begins at following(tile, j).
  static int64_t stream_tiles(int64_t tiles, int64_t streams) { return tiles % streams == 0 ? tiles / streams : 1; }
  const uint8_t* following(int64_t tile, int64_t tile_bytes, int64_t streams, int64_t j) const {
    const int64_t length = stream_tiles(tiles, streams);
    if (tile + 1 < length) return b + (tile + 1 + j * length) * tile_bytes;
    if (length == 1 && tile + streams < tiles) return b + (tile + streams + j) * tile_bytes;
    return next ? next + j * stream_tiles(next_tiles, streams) * tile_bytes : b;
  }

  // Rows of tile i alone.
  QuantizedBlock row_tile(int64_t i) const {
    QuantizedBlock t = *this;
    const int64_t row = i * QuantizedRows::kRows;
    t.a = a.tile(*panels, i);
    t.rows = rows - row < QuantizedRows::kRows ? rows - row : QuantizedRows::kRows;
    if (residual) t.residual += row * residual_stride;
    t.c += row * c_stride;
    return t;
  }
};

struct QuantizedIsa {
  // Up to a tile of rows of a, k floats each.
  void (*round_rows)(const QuantizedPanels& panels, const float* a, int64_t rows, const QuantizedRows& out);
  void (*block)(const QuantizedBlock& block);
  // For blocks of up to so many rows and tiles.
  int64_t (*scratch_bytes)(const QuantizedPanels& panels, int64_t rows, int64_t tiles);
  // QuantizedRows::value_bytes for so many rows in all.
  int (*value_bytes)(const QuantizedPanels& panels, int64_t rows);
  // Rows and tiles that a block should have at most, and the fewest tiles that make good use of a pass.
  int64_t max_rows, max_tiles, min_tiles;
};
// Enter only with cpu_features().amx_int8 and .amx_bf16, .avx512_vnni, .avx2.
const QuantizedIsa& quantized_amx();
const QuantizedIsa& quantized_avx512_vnni();
const QuantizedIsa& quantized_avx2();

}  // namespace tokamak::cpu
