// rope: a thread an element of x, which is [batch, heads, length, WIDTH] in memory order of its strides. ELEMENT, ANGLE (cos, sin); HALF:
// rotated pairs; INTERLEAVED.
#include "prelude.cuh"

struct RopeArgs {
  int64_t count;             // rows
  int sizes[3];              // of x's first three dimensions
  int64_t angle_strides[3];  // of cos and sin along them, 0 repeats
};

extern "C" __global__ void __launch_bounds__(256)
    rope(const ELEMENT* x, const ANGLE* cos, const ANGLE* sin, ELEMENT* __restrict__ y, RopeArgs a) {
  wait_for_previous();
  allow_next();
  const int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (e >= a.count * WIDTH) return;
  const int64_t row = e / WIDTH;
  const int d = int(e % WIDTH);
  if (d >= 2 * HALF) {
    y[e] = x[e];
    return;
  }
  const bool is_first = INTERLEAVED ? d % 2 == 0 : d < HALF;
  const int pair = INTERLEAVED ? d / 2 : is_first ? d : d - HALF;
  const int partner = INTERLEAVED ? d ^ 1 : is_first ? d + HALF : d - HALF;
  const int64_t outer = row / a.sizes[2];
  const int64_t at =
      row % a.sizes[2] * a.angle_strides[2] + outer % a.sizes[1] * a.angle_strides[1] + outer / a.sizes[1] * a.angle_strides[0] + pair;
  const float own = to_float(x[e]), other = to_float(x[row * WIDTH + partner]), c = to_float(cos[at]), s = to_float(sin[at]);
  y[e] = from_float<ELEMENT>(is_first ? own * c - other * s : own * c + other * s);
}
