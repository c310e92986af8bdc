#include <immintrin.h>

#include "quant/int4_row.h"

namespace tokamak::quant {

#define SUM_OF_LANES(x) _mm512_reduce_add_ps(_mm512_loadu_ps(x))
#define ROUND_TO_HALF(x) _cvtsh_ss(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT))
#include "quant/int4_row.inc"

void int4_row_avx512(const Int4Row& row, const float* x, float* scales, int8_t* q, float* target, float* errors) {
  quantize_row(row, x, scales, q, target, errors);
}

}  // namespace tokamak::quant
