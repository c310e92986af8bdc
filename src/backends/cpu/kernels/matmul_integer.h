#pragma once
// 8-bit matrix products for matmul_integer: packed B and the functions of one instruction set.
//
// vpdpbusd multiplies unsigned by signed bytes, so A is held unsigned (a' = a, or a + 128) and B signed (b' = b, or b - 128); the zero
// points move along (za', zb'). With the sums R of A's rows and C of B's columns,
//   sum over k of (a - za)(b - zb)  =  sum a' b'  -  R zb'  +  za' (K zb' - C).

#include <cstdint>

namespace tokamak::cpu {

// B[k, n] packed: panels of 64 columns, each [k / 4][width][4 bytes of k], width = 64, in the last panel what is left of N rounded up to
// 16; then the sums of the columns, i32. Rows past K and columns past N are zero.
struct VnniPanels {
  static constexpr int64_t kColumns = 64;
  int64_t k = 0, n = 0;

  int64_t groups() const { return (k + 3) / 4; }          // of 4 rows
  int64_t columns() const { return (n + 15) / 16 * 16; }  // with padding
  int64_t count() const { return (n + kColumns - 1) / kColumns; }
  int64_t width(int64_t panel) const { return columns() - panel * kColumns < kColumns ? columns() - panel * kColumns : kColumns; }
  int64_t offset(int64_t panel) const { return panel * kColumns * groups() * 4; }
  int64_t sums_offset() const { return columns() * groups() * 4; }
  int64_t bytes() const { return sums_offset() + columns() * 4; }
};
// Row-major b, each byte xor `flip` (0 or 0x80), panels [first, last) and their sums.
void vnni_pack_b(const VnniPanels& panels, const uint8_t* b, uint8_t flip, uint8_t* packed, int64_t first, int64_t last);

// A row of A made unsigned. `out` (null: not wanted) gets k bytes xor `flip` and zeros up to a multiple of 4; `sum` (null: not wanted)
// their sum.
void vnni_prepare_row_avx512(const uint8_t* a, int64_t k, uint8_t flip, uint8_t* out, int32_t* sum);

struct VnniBlock {
  const uint8_t* a = nullptr;  // unsigned; rows are readable up to a multiple of 4 bytes
  int64_t a_stride = 0;
  const uint8_t* b = nullptr;  // a panel
  int64_t groups = 0;
  int64_t rows = 0, cols = 0;            // cols valid of the panel's width
  const int32_t* row_sums = nullptr;     // R, or null when all zb' are zero
  const int32_t* b_zero = nullptr;       // zb' of the panel's columns, whole vectors
  const int32_t* column_term = nullptr;  // za' (K zb' - C), likewise
  int32_t* c = nullptr;
  int64_t c_stride = 0;
};
void vnni_block_avx512(const VnniBlock& block);

}  // namespace tokamak::cpu
