// conv, conv_integer and conv_transpose by their definition: one output a thread, in the order of the output's memory.
//   ConvShape's defines; X_ELEMENT, W_ELEMENT, OUT_ELEMENT, ACCUMULATOR; W_OUT, W_IN, W_TAP: strides of w by output channel (of the group,
//   when transposed), input channel (of the group, unless transposed) and tap; TRANSPOSED
//   INTEGER: zero points are subtracted, X_ZEROS (0: none, 1: one), W_ZEROS (0: none, 1: one for all, 2: one an output channel)
//   EPILOGUE: `epilogue` is defined (kernels/epilogue.h)
#include "prelude.cuh"
#include "widen.cuh"

constexpr int kGroupC = C_SIZE / GROUP, kGroupM = M_SIZE / GROUP;
constexpr int64_t kInArea = int64_t(IN_D) * IN_H * IN_W, kOutArea = int64_t(OUT_D) * OUT_H * OUT_W;

// The input coordinate that output coordinate o meets through a tap; false when that is padding (or between the steps).
template <int kStride, int kDilation, int kPad, int kIn>
DEVICE bool meet(int o, int tap, int& i) {
  if constexpr (TRANSPOSED) {
    const int at = o + kPad - tap * kDilation;
    i = at / kStride;
    return at >= 0 && i * kStride == at && i < kIn;
  } else {
    i = o * kStride - kPad + tap * kDilation;
    return i >= 0 && i < kIn;
  }
}

extern "C" __global__ void __launch_bounds__(256) conv(const X_ELEMENT* x, const W_ELEMENT* w, OUT_ELEMENT* __restrict__ y,
                                                       const X_ELEMENT* x_zero, const W_ELEMENT* w_zero, int batch, Extras extras) {
  using Acc = ACCUMULATOR;
  wait_for_previous();
  const int64_t index = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (index >= int64_t(batch) * M_SIZE * kOutArea) return;
  const int m = CHANNELS_LAST ? index % M_SIZE : index / kOutArea % M_SIZE;
  const int64_t n = index / (M_SIZE * kOutArea);
  const int64_t pixel = CHANNELS_LAST ? index / M_SIZE % kOutArea : index % kOutArea;
  const int ow = pixel % OUT_W, oh = pixel / OUT_W % OUT_H, od = pixel / (int64_t(OUT_W) * OUT_H);
  const int group = m / kGroupM;
  constexpr int64_t kStepC = CHANNELS_LAST ? 1 : kInArea, kStepPixel = CHANNELS_LAST ? C_SIZE : 1;
  const X_ELEMENT* const x_group = x + n * C_SIZE * kInArea + group * kGroupC * kStepC;
  const W_ELEMENT* const w_group = w + (TRANSPOSED ? m % kGroupM * int64_t(W_OUT) + group * kGroupC * int64_t(W_IN) : m * int64_t(W_OUT));
  Acc x_offset(0), w_offset(0);
  if (X_ZEROS != 0) x_offset = widen<Acc>(x_zero[0]);
  if (W_ZEROS != 0) w_offset = widen<Acc>(w_zero[W_ZEROS == 2 ? m : 0]);
  Acc acc(0);
  for (int kd = 0; kd < KERNEL_D; ++kd) {
    int id, ih, iw;
    if (!meet<STRIDE_D, DILATION_D, PAD_D, IN_D>(od, kd, id)) continue;
    for (int kh = 0; kh < KERNEL_H; ++kh) {
      if (!meet<STRIDE_H, DILATION_H, PAD_H, IN_H>(oh, kh, ih)) continue;
      for (int kw = 0; kw < KERNEL_W; ++kw) {
        if (!meet<STRIDE_W, DILATION_W, PAD_W, IN_W>(ow, kw, iw)) continue;
        const X_ELEMENT* const from = x_group + ((int64_t(id) * IN_H + ih) * IN_W + iw) * kStepPixel;
        const W_ELEMENT* const weights = w_group + ((kd * KERNEL_H + kh) * KERNEL_W + kw) * int64_t(W_TAP);
#pragma unroll 4
        for (int c = 0; c < kGroupC; ++c) {
          const Acc left = widen<Acc>(from[c * kStepC]), right = widen<Acc>(weights[c * int64_t(W_IN)]);
          acc += INTEGER ? (left - x_offset) * (right - w_offset) : left * right;
        }
      }
    }
  }
#if EPILOGUE
  constexpr int kLast = CHANNELS_LAST ? M_SIZE : OUT_W;
  float value[1] = {float(acc)};
  epilogue<1>(value, index / kLast, index % kLast, extras);
  y[index] = from_float<OUT_ELEMENT>(value[0]);
#else
  y[index] = Narrow<OUT_ELEMENT, Acc>::from(acc);
#endif
}
