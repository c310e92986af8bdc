#include <algorithm>

#include "backends/cpu/kernels/gemm_microkernel.h"

namespace tokamak::cpu {

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
    // Columns are far apart: 16 rows at a time, so that each line of the source is read once.
    constexpr int64_t kBlock = 16;
    for (int64_t k0 = 0; k0 < panels.k; k0 += kBlock) {
      const int64_t rows = std::min(kBlock, panels.k - k0);
      for (int n = 0; n < width; ++n) {
        const float* column = in + n * col_stride + k0 * row_stride;
        float* to = out + k0 * width + n;
        for (int64_t k = 0; k < rows; ++k) to[k * width] = n < cols ? column[k * row_stride] : 0.0f;
      }
    }
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
