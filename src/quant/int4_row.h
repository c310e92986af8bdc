#pragma once
// Rounding one row to 4 bits: the part of int4.cc that takes the time, compiled for several instruction sets.

#include <cstdint>

namespace tokamak::quant {

struct Int4Row {
  int64_t k, group;
  const float* importance;  // [padded] weight of each element's squared error; `padded` is k up to whole groups
  const float* factor;      // Feedback's [k,k], or null
  bool half_scales;         // scales are rounded to f16 before weights are rounded by them
};

// x [k] → scales [padded / group] and q [k] (-8..7). `target` is scratch of one group, `errors` of k elements.
using Int4RowFunction = void (*)(const Int4Row& row, const float* x, float* scales, int8_t* q, float* target, float* errors);
void int4_row(const Int4Row& row, const float* x, float* scales, int8_t* q, float* target, float* errors);
void int4_row_avx512(const Int4Row& row, const float* x, float* scales, int8_t* q, float* target, float* errors);

}  // namespace tokamak::quant
