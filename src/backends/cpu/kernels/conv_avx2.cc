// Convolution's inner parts for AVX2.

#include "backends/cpu/kernels/conv_depthwise.h"
#include "backends/cpu/kernels/conv_winograd.h"
#include "backends/cpu/kernels/pool.h"

namespace tokamak::cpu {

const ConvIsa kConvAvx2 = {
    "avx2", Simd::kWidth, Simd::kMaxNv, {0, Simd::max_rows(1), Simd::max_rows(2), 0, 0}, panel, winograd_input, winograd_output, depthwise,
    pool,   columns,      blend};

}  // namespace tokamak::cpu
