#pragma once
// Matrix products on AMX: tiles of 16 rows of 64 bytes, tdpbf16ps multiplies pairs of bfloat16 and adds to f32 sums.

#include <cstdint>

namespace tokamak::cpu {

// B[k, n] as bfloat16 pairs (elements 2i and 2i + 1 of K): panels of 32 columns, each [k / 32][2 tiles of 16 columns][16 pairs][16
// columns]. Zero past K and N.
struct AmxPanels {
  static constexpr int64_t kColumns = 32, kTilePairs = 256;
  int64_t k = 0, n = 0;

  int64_t k_blocks() const { return (k + 31) / 32; }
  int64_t count() const { return (n + kColumns - 1) / kColumns; }
  int64_t panel_pairs() const { return k_blocks() * 2 * kTilePairs; }
  int64_t bytes() const { return count() * panel_pairs() * 4; }
};
// b(k, n) = b[k * row_stride + n * col_stride].
void amx_pack_b(const AmxPanels& panels, const uint16_t* b, int64_t row_stride, int64_t col_stride, uint32_t* packed);

// c = alpha * A B + bias + residual on a panel; bias and residual may be null. Enter only with cpu_features().amx_bf16.
struct AmxBlock {
  const uint32_t* a = nullptr;  // pairs; rows up to a multiple of 16 and columns up to k_blocks are readable, and zero past K
  int64_t a_stride = 0;         // pairs
  const uint32_t* b = nullptr;  // a panel
  int64_t k_blocks = 0;
  int64_t rows = 0, cols = 0;
  float alpha = 1;
  const float* bias = nullptr;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
};
void amx_block(const AmxBlock& block);

}  // namespace tokamak::cpu
