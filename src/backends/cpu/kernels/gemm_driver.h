#pragma once
// Loops over register tiles: one block of a product on one thread, and how a product is cut into blocks for threads and caches.

#include <cstdint>

#include "backends/cpu/kernels/gemm_microkernel.h"

namespace tokamak::cpu {

// C[m, n] = epilogue(alpha * A B), f32. Pointers are of element (0, 0); the epilogue's too.
struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  int64_t a_stride = 0;      // floats between rows; elements of a row are consecutive
  const float* b = nullptr;  // GemmPanels of width nr, or with `direct` a row-major matrix
  int nr = 0;                // a multiple of 16
  bool direct = false;
  int64_t b_stride = 0;  // direct: floats between rows
  float* c = nullptr;
  int64_t c_stride = 0;
  float alpha = 1.0f;
  GemmEpilogue epilogue;
};

// Rows [row_begin, row_end) of panels [panel_begin, panel_end) (of nr columns each).
void gemm_block(const GemmIsa& isa, const Gemm& gemm, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end);

// Blocks of rows that, with a panel of B, stay in the second-level cache, and enough of them for all threads. Block i has rows
// [begin(i), begin(i + 1)), evenly many. A unit is a row block and a panel; neighbours in unit order share the row block.
struct GemmSplit {
  int64_t m = 0, row_blocks = 1, panels = 1;

  int64_t begin(int64_t row_block) const { return m * row_block / row_blocks; }
  int64_t units() const { return row_blocks * panels; }
};
// `products`: how many such products run together (a batch). With `whole_rows` a unit holds all panels of its rows.
GemmSplit gemm_split(const GemmIsa& isa, int64_t m, int64_t n, int64_t k, int nr, int64_t products, int threads, bool whole_rows = false);

}  // namespace tokamak::cpu
