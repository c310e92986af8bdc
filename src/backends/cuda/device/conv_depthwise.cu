// Depthwise convolution of NHWC: VEC channels a thread, moved by vectors. w is [taps, C].
//   ConvShape's defines; ELEMENT, VEC
#include "prelude.cuh"

extern "C" __global__ void __launch_bounds__(256)
    conv_depthwise(const ELEMENT* x, Weights<ELEMENT> w, ELEMENT* __restrict__ y, int batch, Extras extras) {
  constexpr int kVectors = C_SIZE / VEC;
  wait_for_previous();
  const int64_t index = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (index >= int64_t(batch) * OUT_D * OUT_H * OUT_W * kVectors) return;
  const int c = index % kVectors * VEC;
  const int64_t pixel = index / kVectors;
  const int ow = pixel % OUT_W, oh = pixel / OUT_W % OUT_H, od = pixel / (int64_t(OUT_W) * OUT_H) % OUT_D;
  const int64_t n = pixel / (int64_t(OUT_W) * OUT_H * OUT_D);
  const ELEMENT* const image = x + n * IN_D * IN_H * IN_W * C_SIZE + c;
  float acc[VEC];
#pragma unroll
  for (int i = 0; i < VEC; ++i) acc[i] = 0;
#pragma unroll
  for (int kd = 0; kd < KERNEL_D; ++kd)
#pragma unroll
    for (int kh = 0; kh < KERNEL_H; ++kh)
#pragma unroll
      for (int kw = 0; kw < KERNEL_W; ++kw) {
        const int id = od * STRIDE_D - PAD_D + kd * DILATION_D, ih = oh * STRIDE_H - PAD_H + kh * DILATION_H,
                  iw = ow * STRIDE_W - PAD_W + kw * DILATION_W;
        if (unsigned(id) >= IN_D || unsigned(ih) >= IN_H || unsigned(iw) >= IN_W) continue;
        float from[VEC], weight[VEC];
        load_floats<VEC>(image + ((int64_t(id) * IN_H + ih) * IN_W + iw) * C_SIZE, from);
        load_floats<VEC>(w + ((kd * KERNEL_H + kh) * KERNEL_W + kw) * C_SIZE + c, weight);
#pragma unroll
        for (int i = 0; i < VEC; ++i) acc[i] += from[i] * weight[i];
      }
  epilogue<VEC>(acc, pixel, c, extras);
  store_floats<VEC>(y + pixel * C_SIZE + c, acc);
}
