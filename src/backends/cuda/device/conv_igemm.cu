// Convolution of NHWC 16-bit floats as a product on the tensor cores: rows are output pixels, columns output channels, k runs through
// taps and, fastest, input channels; A is gathered from x as it is copied. w is [M, K_PADDED], k in that order.
//   mma_tile.cuh's defines, ConvShape's; K_PADDED; VECTOR: columns stored together, divides the group's channels; OUT_ELEMENT
//   batch is an argument: one kernel for all of a model's batch sizes
#include "mma_tile.cuh"

constexpr int kGroupC = C_SIZE / GROUP, kGroupM = M_SIZE / GROUP, kSize = KERNEL_D * KERNEL_H * KERNEL_W * kGroupC;
constexpr int kTilesOfN = (kGroupM + TILE_N - 1) / TILE_N;
constexpr int kRowStep = kThreads / 8, kRowsPerThread = TILE_M / kRowStep;
static_assert(TILE_M % kRowStep == 0);

// Where element k of the row of a pixel lies from the pixel's first tap, and the tap's coordinates.
struct Tap {
  int d, h, w, offset;
  DEVICE explicit Tap(int k) {
    const int tap = k / kGroupC, c = k - tap * kGroupC;
    w = tap % KERNEL_W * DILATION_W, h = tap / KERNEL_W % KERNEL_H * DILATION_H, d = tap / (KERNEL_W * KERNEL_H) * DILATION_D;
    offset = ((d * IN_H + h) * IN_W + w) * C_SIZE + c;
  }
};

extern "C" __global__ void __launch_bounds__(kThreads)
    conv_igemm(const ELEMENT* x, Weights<ELEMENT> w, OUT_ELEMENT* __restrict__ y, int batch, Extras extras) {
  extern __shared__ __align__(1024) char shared[];
  const int pixels = batch * (OUT_D * OUT_H * OUT_W), tiles_of_m = (pixels + TILE_M - 1) / TILE_M;
  const int tile = blockIdx.x / SPLIT, group = GROUP == 1 ? 0 : tile / (tiles_of_m * kTilesOfN);
  const int first_m = tile % tiles_of_m * TILE_M, first_n = tile / tiles_of_m % kTilesOfN * TILE_N;
  x += group * kGroupC;
  w += int64_t(group) * kGroupM * K_PADDED;

  // The rows that this thread copies: chunk threadIdx.x % 8 of rows threadIdx.x / 8 + i * kRowStep.
  const int chunk = threadIdx.x % 8;
  int first_d[kRowsPerThread], first_h[kRowsPerThread], first_w[kRowsPerThread], origin[kRowsPerThread];
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    const int pixel = first_m + threadIdx.x / 8 + i * kRowStep;
    const int n = pixel / (OUT_D * OUT_H * OUT_W);
    first_w[i] = pixel % OUT_W * STRIDE_W - PAD_W;
    first_h[i] = pixel / OUT_W % OUT_H * STRIDE_H - PAD_H;
    first_d[i] = pixel / (OUT_W * OUT_H) % OUT_D * STRIDE_D - PAD_D;
    origin[i] = (((n * IN_D + first_d[i]) * IN_H + first_h[i]) * IN_W + first_w[i]) * C_SIZE;
    if (pixel >= pixels) first_h[i] = -(1 << 29);  // no tap lies inside
  }
  const auto inside = [&](int i, const Tap& tap) {
    return unsigned(first_d[i] + tap.d) < IN_D && unsigned(first_h[i] + tap.h) < IN_H && unsigned(first_w[i] + tap.w) < IN_W;
  };
  const auto copy_a = [&](uint32_t buffer, int step) {
    const int k = step * kTileK + chunk * 8;
    if constexpr (kGroupC % 8 == 0) {
      const Tap tap(k);
#pragma unroll
      for (int i = 0; i < kRowsPerThread; ++i) {
        const bool valid = k < kSize && inside(i, tap);
        copy_async_16(buffer + swizzled<8>(threadIdx.x / 8 + i * kRowStep, chunk), valid ? x + (origin[i] + tap.offset) : x, valid);
      }
    } else if constexpr (kGroupC % 4 == 0) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Tap tap(k + half * 4);
#pragma unroll
        for (int i = 0; i < kRowsPerThread; ++i) {
          const bool valid = k + half * 4 < kSize && inside(i, tap);
          copy_async_8(buffer + swizzled<8>(threadIdx.x / 8 + i * kRowStep, chunk) + half * 8, valid ? x + (origin[i] + tap.offset) : x,
                       valid);
        }
      }
    } else {  // a chunk has several taps: element by element
      uint32_t words[kRowsPerThread][4];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const Tap tap(k + e);
#pragma unroll
        for (int i = 0; i < kRowsPerThread; ++i) {
          const bool valid = k + e < kSize && inside(i, tap);
          const uint32_t bits = valid ? x[origin[i] + tap.offset].bits : 0;
          words[i][e / 2] = e % 2 == 0 ? bits : words[i][e / 2] | bits << 16;
        }
      }
#pragma unroll
      for (int i = 0; i < kRowsPerThread; ++i)
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(buffer + swizzled<8>(threadIdx.x / 8 + i * kRowStep, chunk)),
                     "r"(words[i][0]), "r"(words[i][1]), "r"(words[i][2]), "r"(words[i][3])
                     : "memory");
    }
  };
  const auto copy_b = [&](uint32_t buffer, int step) {
    copy_tile<TILE_N, 8>(buffer, [&](int row, int chunk_b, bool& valid) {
      const int j = first_n + row, k = step * kTileK + chunk_b * 8;
      valid = j < kGroupM && k < K_PADDED;
      return valid ? w + (int64_t(j) * K_PADDED + k) : w;
    });
  };
  multiply_tile<false, false, true, VECTOR>(shared, (kSize + kTileK - 1) / kTileK, copy_a, copy_b,
                                            [&](int row, int col, float(&value)[VECTOR]) {
                                              const int pixel = first_m + row, j = first_n + col;
                                              if (pixel >= pixels || j >= kGroupM) return;
                                              epilogue<VECTOR>(value, pixel, group * kGroupM + j, extras);
                                              store_floats<VECTOR>(y + int64_t(pixel) * M_SIZE + group * kGroupM + j, value);
                                            });
}
