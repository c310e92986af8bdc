// max_pool, avg_pool and lp_pool: one thread an output position of WIDTH channels (channels last) or of one. KIND: 0 max, 1 avg, 2 lp.
// ELEMENT, COMPUTE. CHANNELS; IN_D, IN_H, IN_W, OUT_D...; kernel K_D..., stride S_D..., dilation D_D..., pad before P_D..., pad behind
// E_D.... CHANNELS_LAST. HAS_INDICES, COLUMN_MAJOR; INCLUDE_PAD; POWER.
#include "elementwise.cuh"

DEVICE int taps_inside(int at, int size, int kernel, int dilation) {  // of a window that starts at `at`, those below `size`
  const int room = (size - at + dilation - 1) / dilation;
  return size <= at ? 0 : room < kernel ? room : kernel;
}

extern "C" __global__ void __launch_bounds__(256)
    pool(const ELEMENT* x, ELEMENT* __restrict__ y, int64_t* __restrict__ indices, int64_t count) {
  wait_with_next();
  int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= count) return;
#if CHANNELS_LAST
  constexpr int64_t kInner = CHANNELS;  // elements from one column to the next
  const int channel = int(i % (CHANNELS / WIDTH)) * WIDTH;
  i /= CHANNELS / WIDTH;
#else
  constexpr int64_t kInner = 1;
#endif
  const int ow = int(i % OUT_W), oh = int(i / OUT_W % OUT_H), od = int(i / (int64_t(OUT_W) * OUT_H) % OUT_D);
  const int64_t plane = i / (int64_t(OUT_W) * OUT_H * OUT_D);  // the image, or the image's channel
  const ELEMENT* const from = x + plane * (int64_t(IN_D) * IN_H * IN_W * kInner)
#if CHANNELS_LAST
                              + channel
#endif
      ;
  const int d0 = od * S_D - P_D, h0 = oh * S_H - P_H, w0 = ow * S_W - P_W;
  COMPUTE value[WIDTH];
  int64_t where[WIDTH];
#pragma unroll
  for (int k = 0; k < WIDTH; ++k) value[k] = KIND == 0 ? COMPUTE(LOWEST) : COMPUTE(0), where[k] = -1;
  int inside = 0;
  for (int kd = 0; kd < K_D; ++kd) {
    const int d = d0 + kd * D_D;
    if (d < 0 || d >= IN_D) continue;
    for (int kh = 0; kh < K_H; ++kh) {
      const int h = h0 + kh * D_H;
      if (h < 0 || h >= IN_H) continue;
      for (int kw = 0; kw < K_W; ++kw) {
        const int w = w0 + kw * D_W;
        if (w < 0 || w >= IN_W) continue;
        ++inside;
        const int64_t position = (int64_t(d) * IN_H + h) * IN_W + w;
        const Vec<ELEMENT, WIDTH> v = load_vector<ELEMENT, WIDTH>(from + position * kInner);
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) {
          const COMPUTE e = widen<COMPUTE>(v.at[k]);
#if KIND == 0
          if (where[k] < 0 || e > value[k]) value[k] = e, where[k] = COLUMN_MAJOR ? (int64_t(w) * IN_H + h) * IN_D + d : position;
#elif KIND == 1
          value[k] += e;
#else
          value[k] += POWER == 1 ? ::fabs(e) : POWER == 2 ? e * e : ::pow(::fabs(e), COMPUTE(POWER));
#endif
        }
      }
    }
  }
#if KIND == 1
  int terms = inside;
  if (INCLUDE_PAD)
    terms = taps_inside(d0, IN_D + E_D, K_D, D_D) * taps_inside(h0, IN_H + E_H, K_H, D_H) * taps_inside(w0, IN_W + E_W, K_W, D_W);
#endif
  Vec<ELEMENT, WIDTH> out;
#pragma unroll
  for (int k = 0; k < WIDTH; ++k) {
#if KIND == 1
    value[k] = terms == 0 ? COMPUTE(0) : value[k] / COMPUTE(terms);
#elif KIND == 2
    value[k] = POWER == 1 ? value[k] : POWER == 2 ? ::sqrt(value[k]) : ::pow(value[k], COMPUTE(1) / COMPUTE(POWER));
#endif
    out.at[k] = narrow<ELEMENT>(value[k]);
  }
#if CHANNELS_LAST
  const int64_t at = i * CHANNELS + channel;
#else
  const int64_t at = i;
#endif
  store_vector<ELEMENT, WIDTH>(y + at, out);
#if HAS_INDICES
#pragma unroll
  for (int k = 0; k < WIDTH; ++k) {
#if CHANNELS_LAST
    const int64_t first = (plane * CHANNELS + channel + k) * (int64_t(IN_D) * IN_H * IN_W);
#else
    const int64_t first = plane * (int64_t(IN_D) * IN_H * IN_W);
#endif
    indices[at + k] = where[k] < 0 ? -1 : first + where[k];
  }
#endif
}
