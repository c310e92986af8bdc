// lrn: an element a thread. ELEMENT; CHANNELS, AREA, SIZE: the window of channels.
#include "prelude.cuh"

extern "C" __global__ void __launch_bounds__(256)
    lrn(const ELEMENT* x, ELEMENT* __restrict__ y, int64_t count, float alpha_per_size, float beta, float bias) {
  wait_with_next();
  const int64_t at = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (at >= count) return;
  const int channel = int(at / AREA % CHANNELS);
  const int first = channel - (SIZE - 1) / 2 < 0 ? 0 : channel - (SIZE - 1) / 2;
  const int last = channel + SIZE / 2 > CHANNELS - 1 ? CHANNELS - 1 : channel + SIZE / 2;
  float square = 0;
  for (int k = first; k <= last; ++k) {
    const float v = to_float(x[at + int64_t(k - channel) * AREA]);
    square += v * v;
  }
  y[at] = from_float<ELEMENT>(to_float(x[at]) / powf(bias + alpha_per_size * square, beta));
}
