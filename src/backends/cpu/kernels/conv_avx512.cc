// Convolution's inner parts for AVX-512.

#include "backends/cpu/kernels/conv_depthwise.h"
#include "backends/cpu/kernels/conv_winograd.h"
#include "backends/cpu/kernels/pool.h"

namespace tokamak::cpu {

const ConvIsa kConvAvx512 = {"avx512",
                             Simd::kWidth,
                             Simd::kMaxNv,
                             {0, Simd::max_rows(1), Simd::max_rows(2), Simd::max_rows(3), Simd::max_rows(4)},
                             panel,
                             winograd_input,
                             winograd_output,
                             depthwise,
                             pool,
                             columns,
                             blend};

}  // namespace tokamak::cpu
