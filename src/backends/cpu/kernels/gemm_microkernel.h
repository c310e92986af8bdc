#pragma once
// Register tiles for matrix products and convolutions: C[rows, cols] (+)= A B for a handful of rows and a few vectors of columns, with all
// of C in registers. One table of tiles per instruction set; drivers (matmul, convolution) loop over tiles and own blocking, threads and
// packing.

#include <cstdint>

#include "backends/cpu/expr_program.h"

namespace tokamak::cpu {

// What happens to a finished sum x in column c of row r, in this order; the members are null or None when they do not take part:
//   x += bias[c];  x += residual[r, c] unless residual_after;  x = activation(x);  x += residual[r, c] if residual_after
struct GemmEpilogue {
  const float* bias = nullptr;      // of the tile's first column
  const float* residual = nullptr;  // of the tile's first element
  int64_t residual_stride = 0;      // floats between rows
  bool residual_after = false;
  ExprProgram::Activation activation = ExprProgram::Activation::None;
};

// One call of a tile function. Row i of A, run r, is the `run_length` consecutive floats at
//   Strided:  a + i * a_stride + r * run_stride
//   Pointers: a_rows[i] + r * run_stride
// A matrix row is one run of K floats; a convolution over channels-last data has a run per kernel row (kernel width x channels). Row r *
// run_length
// + k of B multiplies element k of run r:
//   b + row * b_stride; all vectors * lanes columns of packed B are read, only `cols` of them with DirectB
struct GemmTile {
  const float* a = nullptr;
  int64_t a_stride = 0;
  const float* const* a_rows = nullptr;
  int64_t num_runs = 1;
  int64_t run_length = 0;
  int64_t run_stride = 0;
  const float* b = nullptr;
  int64_t b_stride = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
  int cols = 0;                            // 1 .. vectors * lanes, more than (vectors - 1) * lanes
  bool accumulate = false;                 // start from what C holds (the sum over earlier blocks of K)
  float alpha = 1.0f;                      // multiplies the sum, earlier blocks included
  const GemmEpilogue* epilogue = nullptr;  // of the last block of K; null: store the plain sum
};
using GemmTileFunction = void (*)(const GemmTile&);

enum class GemmTileKind { Strided, Pointers, DirectB };

// The tiles of an instruction set. The best shapes fill the registers: AVX-512 6x4, 9x3, 14x2 and 14x1 (rows x vectors of 16), AVX2 6x2 and
// 12x1 (vectors of 8).
struct GemmIsa {
  int lanes;        // floats in a vector
  int max_vectors;  // vectors across the widest tile
  int (*max_rows)(int vectors);
  // For 1 <= rows <= max_rows(vectors), 1 <= vectors <= max_vectors.
  GemmTileFunction (*tile)(GemmTileKind kind, int rows, int vectors);
  // In place over rows x cols: the activation, then the residual if residual_after (bias and an earlier residual are not added). For
  // callers that have sums in memory.
  void (*activate)(float* c, int64_t c_stride, int64_t rows, int64_t cols, const GemmEpilogue& epilogue);
};
// Only enter what they hold when cpu_features() has avx512 or avx2.
const GemmIsa& gemm_avx512();
const GemmIsa& gemm_avx2();
// bfloat16 A and B, f32 sums and C. Every "float" of A and B in a GemmTile is a pair of bfloat16, elements 2i (low half) and 2i + 1 of K;
// lengths and strides along K count pairs, an odd K ends with a zero. Needs avx512_bf16.
const GemmIsa& gemm_avx512_bf16();
// Rows of k floats to rows of (k + 1) / 2 pairs, rounded to nearest even (subnormals become zero). Needs avx512_bf16.
void gemm_bf16_pairs(const float* a, int64_t rows, int64_t k, uint32_t* pairs);

// Packed B for tiles of `nr` columns: panels of nr columns one after the other, each [K][width], width = nr except in the last panel, where
// it is what is left of N rounded up to 16. Element (k, n) is at panel_offset(n / nr) + k * width + n % nr; columns past N are zero.
struct GemmPanels {
  int64_t k = 0, n = 0;
  int nr = 0;

  int64_t count() const { return (n + nr - 1) / nr; }
  int64_t offset(int64_t panel) const { return panel * nr * k; }
  int cols(int64_t panel) const { return static_cast<int>(n - panel * nr < nr ? n - panel * nr : nr); }
  int width(int64_t panel) const { return (cols(panel) + 15) / 16 * 16; }
  int64_t size() const { return count() == 0 ? 0 : offset(count() - 1) + k * width(count() - 1); }  // floats
};
// out[c * out_stride + r] = in[r * in_stride + c]
void gemm_transpose(const float* in, int64_t in_stride, int64_t rows, int64_t cols, float* out, int64_t out_stride);

// b(k, n) = b[k * row_stride + n * col_stride], panels [first, last).
void gemm_pack_b(const GemmPanels& panels, const float* b, int64_t row_stride, int64_t col_stride, float* packed, int64_t first,
                 int64_t last);
// The same for bfloat16 pairs: `panels.k` counts pairs of the k rows of b, a 32-bit element of a panel is a pair.
void gemm_pack_b_bf16(const GemmPanels& panels, const uint16_t* b, int64_t k, int64_t row_stride, int64_t col_stride, uint32_t* packed,
                      int64_t first, int64_t last);

}  // namespace tokamak::cpu
