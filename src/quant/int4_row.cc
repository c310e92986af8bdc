#include "quant/int4_row.h"

#include "base/half.h"

namespace tokamak::quant {

namespace {

float sum_of_16(const float* x) {
  float sums[4];
  for (int l = 0; l < 4; ++l) sums[l] = (x[l] + x[l + 4]) + (x[l + 8] + x[l + 12]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace

#define SUM_OF_LANES(x) sum_of_16(x)
#define ROUND_TO_HALF(x) half_to_float(float_to_half(x))
#include "quant/int4_row.inc"

void int4_row(const Int4Row& row, const float* x, float* scales, int8_t* q, float* target, float* errors) {
  quantize_row(row, x, scales, q, target, errors);
}

}  // namespace tokamak::quant
