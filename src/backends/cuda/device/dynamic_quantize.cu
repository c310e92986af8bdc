// dynamic_quantize: the range of x (with 0 in it) by parts, then u8 codes, their scale and zero point. ELEMENT; PARTS blocks in both
// kernels.
#include "reduce.cuh"

constexpr int kThreads = 256;

extern "C" __global__ void __launch_bounds__(kThreads) find_range(const ELEMENT* x, float2* __restrict__ parts, int64_t count) {
  __shared__ float scratch[32];
  wait_with_next();
  float low = 0, high = 0;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += PARTS * kThreads) {
    const float v = widen<float>(x[i]);
    low = v < low ? v : low, high = high < v ? v : high;
  }
  low = block_reduce_of<MinOf, kThreads>(low, scratch);
  high = block_reduce_of<MaxOf, kThreads>(high, scratch);
  if (threadIdx.x == 0) parts[blockIdx.x] = float2{low, high};
}

extern "C" __global__ void __launch_bounds__(kThreads)
    quantize(const ELEMENT* x, const float2* parts, uint8_t* __restrict__ y, float* scale_out, uint8_t* zero_out, int64_t count) {
  __shared__ float scratch[32];
  wait_with_next();
  float low = 0, high = 0;
  for (int i = threadIdx.x; i < PARTS; i += kThreads) {
    low = parts[i].x < low ? parts[i].x : low;
    high = high < parts[i].y ? parts[i].y : high;
  }
  low = block_reduce_of<MinOf, kThreads>(low, scratch);
  high = block_reduce_of<MaxOf, kThreads>(high, scratch);
  const float scale = high == low ? 1.f : __fdiv_rn(high - low, 255.f);
  const float zero = fminf(fmaxf(rintf(__fdiv_rn(0.f - low, scale)), 0.f), 255.f);
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += PARTS * kThreads)
    y[i] = uint8_t(fminf(fmaxf(rintf(__fdiv_rn(widen<float>(x[i]), scale)) + zero, 0.f), 255.f));
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    if (scale_out != nullptr) *scale_out = scale;
    if (zero_out != nullptr) *zero_out = uint8_t(zero);
  }
}
