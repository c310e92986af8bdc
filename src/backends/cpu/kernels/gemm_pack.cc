#include <emmintrin.h>

#include <algorithm>

#include "backends/cpu/kernels/gemm_microkernel.h"

namespace tokamak::cpu {

void gemm_transpose(const float* in, int64_t in_stride, int64_t rows, int64_t cols, float* out, int64_t out_stride) {
  // Sixteen columns at a time, so that a line of the source is used up while it is in cache; 4 x 4 in registers.
  constexpr int64_t kBlock = 16;
  for (int64_t c0 = 0; c0 < cols; c0 += kBlock) {
    const int64_t c1 = std::min(cols, c0 + kBlock);
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      const float* from = in + r * in_stride;
      int64_t c = c0;
      for (; c + 4 <= c1; c += 4) {
        __m128 x0 = _mm_loadu_ps(from + c), x1 = _mm_loadu_ps(from + in_stride + c), x2 = _mm_loadu_ps(from + 2 * in_stride + c),
               x3 = _mm_loadu_ps(from + 3 * in_stride + c);
        _MM_TRANSPOSE4_PS(x0, x1, x2, x3);
        float* to = out + c * out_stride + r;
        _mm_storeu_ps(to, x0);
        _mm_storeu_ps(to + out_stride, x1);
        _mm_storeu_ps(to + 2 * out_stride, x2);
        _mm_storeu_ps(to + 3 * out_stride, x3);
      }
      for (; c < c1; ++c)
        for (int64_t i = 0; i < 4; ++i) out[c * out_stride + r + i] = from[i * in_stride + c];
    }
    for (; r < rows; ++r)
      for (int64_t c = c0; c < c1; ++c) out[c * out_stride + r] = in[r * in_stride + c];
  }
}

void gemm_pack_b(const GemmPanels& panels, const float* b, int64_t row_stride, int64_t col_stride, float* packed, int64_t first,
                 int64_t last) {
  for (int64_t p = first; p < last; ++p) {
    const int cols = panels.cols(p), width = panels.width(p);
    float* out = packed + panels.offset(p);
    const float* in = b + p * panels.nr * col_stride;
    if (col_stride == 1) {
      for (int64_t k = 0; k < panels.k; ++k, out += width) {
        std::copy_n(in + k * row_stride, cols, out);
        std::fill(out + cols, out + width, 0.0f);
      }
      continue;
    }
    if (row_stride == 1) {
      gemm_transpose(in, col_stride, cols, panels.k, out, width);
    } else {
      for (int64_t k = 0; k < panels.k; ++k)
        for (int n = 0; n < cols; ++n) out[k * width + n] = in[n * col_stride + k * row_stride];
    }
    if (cols < width)
      for (int64_t k = 0; k < panels.k; ++k) std::fill(out + k * width + cols, out + (k + 1) * width, 0.0f);
  }
}

void gemm_pack_b_bf16(const GemmPanels& panels, const uint16_t* b, int64_t k, int64_t row_stride, int64_t col_stride, uint32_t* packed,
                      int64_t first, int64_t last) {
  for (int64_t p = first; p < last; ++p) {
    const int cols = panels.cols(p), width = panels.width(p);
    uint32_t* out = packed + panels.offset(p);
    const uint16_t* in = b + p * panels.nr * col_stride;
    for (int64_t pair = 0; pair < panels.k; ++pair, out += width)
      for (int n = 0; n < width; ++n) {
        const uint16_t* column = in + n * col_stride + 2 * pair * row_stride;
        out[n] = n >= cols ? 0 : column[0] | (2 * pair + 1 < k ? uint32_t{column[row_stride]} << 16 : 0);
      }
  }
}

}  // namespace tokamak::cpu
