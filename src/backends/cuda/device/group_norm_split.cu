// group_norm and instance_norm in two kernels that fill the GPU whatever the number of groups: sums of parts, then the result. Sums are of
// x less the group's first element, so that a mean far from 0 cancels nothing. ELEMENT; SCALE_TYPE, BIAS_TYPE; CHANNELS, GROUP_CHANNELS,
// AREA; NUM_GROUPS of all images; PARTS blocks an image (channels last, of PART pixels) or a group (channels first, of PART elements).
// Channels last: X_THREADS threads of WIDTH channels take a pixel, Y_THREADS pixels go at once.
#include "row.cuh"

constexpr int kGroups = CHANNELS / GROUP_CHANNELS;
constexpr int64_t kGroupSize = int64_t(GROUP_CHANNELS) * AREA;

struct Moments {  // of x - shift
  float sum, square;
};
DEVICE void finish(const Moments& m, float shift, float epsilon, float& mean, float& inverse) {
  const float off = m.sum / float(kGroupSize);
  mean = shift + off;
  inverse = rsqrtf(fmaxf(m.square / float(kGroupSize) - off * off, 0.f) + epsilon);
}

// Kept behind the parts, one a group of an image: y may be x, whose first element is then soon another.
DEVICE float* shifts(Moments* parts) { return reinterpret_cast<float*>(parts + NUM_GROUPS * PARTS); }
DEVICE const float* shifts(const Moments* parts) { return reinterpret_cast<const float*>(parts + NUM_GROUPS * PARTS); }

#if CHANNELS_LAST

constexpr int kThreads = X_THREADS * Y_THREADS;

extern "C" __global__ void __launch_bounds__(kThreads) group_sums(const ELEMENT* x, Moments* __restrict__ parts) {
  __shared__ float sums[Y_THREADS][CHANNELS], squares[Y_THREADS][CHANNELS];
  wait_with_next();
  const int64_t image = blockIdx.y;
  const int first = threadIdx.x * WIDTH;
  const ELEMENT* const from = x + image * AREA * CHANNELS;
  float shift[WIDTH], sum[WIDTH], square[WIDTH];
#pragma unroll
  for (int k = 0; k < WIDTH; ++k) shift[k] = to_float(from[(first + k) / GROUP_CHANNELS * GROUP_CHANNELS]), sum[k] = square[k] = 0;
  const int64_t begin = int64_t(blockIdx.x) * PART, end = begin + PART < AREA ? begin + PART : AREA;
#pragma unroll 4
  for (int64_t p = begin + threadIdx.y; p < end; p += Y_THREADS) {
    const Vec<ELEMENT, WIDTH> v = load_vector<ELEMENT, WIDTH>(from + p * CHANNELS + first);
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      const float d = to_float(v.at[k]) - shift[k];
      sum[k] += d, square[k] += d * d;
    }
  }
#pragma unroll
  for (int k = 0; k < WIDTH; ++k) sums[threadIdx.y][first + k] = sum[k], squares[threadIdx.y][first + k] = square[k];
  __syncthreads();
  for (int g = threadIdx.y * X_THREADS + threadIdx.x; g < kGroups; g += kThreads) {
    Moments m{0, 0};
    for (int r = 0; r < Y_THREADS; ++r)
      for (int c = g * GROUP_CHANNELS; c < (g + 1) * GROUP_CHANNELS; ++c) m.sum += sums[r][c], m.square += squares[r][c];
    parts[(image * PARTS + blockIdx.x) * kGroups + g] = m;
    if (blockIdx.x == 0) shifts(parts)[image * kGroups + g] = to_float(from[g * GROUP_CHANNELS]);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    group_apply(const ELEMENT* x, const Moments* parts, const SCALE_TYPE* scale, const BIAS_TYPE* bias, ELEMENT* y, float epsilon) {
  // Threads of one group read every kRows-th part.
  constexpr int kRows = kThreads / kGroups > 0 ? kThreads / kGroups : 1;
  __shared__ Moments rows[kRows][kGroups];
  wait_with_next();
  const int64_t image = blockIdx.y;
  for (int i = threadIdx.y * X_THREADS + threadIdx.x; i < kRows * kGroups; i += kThreads) {
    const int g = i % kGroups, r = i / kGroups;
    Moments m{0, 0};
    for (int p = r; p < PARTS; p += kRows) {
      const Moments part = parts[(image * PARTS + p) * kGroups + g];
      m.sum += part.sum, m.square += part.square;
    }
    rows[r][g] = m;
  }
  __syncthreads();
  const int first = threadIdx.x * WIDTH;
  const int64_t base = image * AREA * CHANNELS;
  float a[WIDTH], b[WIDTH];  // y = x a + b
#pragma unroll
  for (int k = 0; k < WIDTH; ++k) {
    const int g = (first + k) / GROUP_CHANNELS;
    Moments m{0, 0};
    for (int r = 0; r < kRows; ++r) m.sum += rows[r][g].sum, m.square += rows[r][g].square;
    float mean, inverse;
    finish(m, shifts(parts)[image * kGroups + g], epsilon, mean, inverse);
    a[k] = inverse * to_float(scale[first + k]);
    b[k] = to_float(bias[first + k]) - mean * a[k];
  }
  const int64_t begin = int64_t(blockIdx.x) * PART, end = begin + PART < AREA ? begin + PART : AREA;
#pragma unroll 4
  for (int64_t p = begin + threadIdx.y; p < end; p += Y_THREADS) {
    Vec<ELEMENT, WIDTH> v = load_vector<ELEMENT, WIDTH>(x + base + p * CHANNELS + first);
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) v.at[k] = from_float<ELEMENT>(fmaf(to_float(v.at[k]), a[k], b[k]));
    store_vector<ELEMENT, WIDTH>(y + base + p * CHANNELS + first, v);
  }
}

#else

extern "C" __global__ void __launch_bounds__(THREADS) group_sums(const ELEMENT* x, Moments* __restrict__ parts) {
  __shared__ float scratch[32];
  wait_with_next();
  const int64_t row = blockIdx.y;
  const ELEMENT* const from = x + row * kGroupSize;
  const float shift = to_float(from[0]);
  Moments m{0, 0};
  const int64_t begin = int64_t(blockIdx.x) * PART, end = begin + PART < kGroupSize ? begin + PART : kGroupSize;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x * WIDTH; i < end; i += THREADS * WIDTH) {
    const Vec<ELEMENT, WIDTH> v = load_vector<ELEMENT, WIDTH>(from + i);
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      const float d = to_float(v.at[k]) - shift;
      m.sum += d, m.square += d * d;
    }
  }
  m.sum = block_reduce<Sum, THREADS>(m.sum, scratch);
  m.square = block_reduce<Sum, THREADS>(m.square, scratch);
  if (threadIdx.x == 0) {
    parts[row * PARTS + blockIdx.x] = m;
    if (blockIdx.x == 0) shifts(parts)[row] = shift;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    group_apply(const ELEMENT* x, const Moments* parts, const SCALE_TYPE* scale, const BIAS_TYPE* bias, ELEMENT* y, float epsilon) {
  __shared__ float scratch[32];
  wait_with_next();
  const int64_t row = blockIdx.y;
  Moments m{0, 0};
  for (int p = threadIdx.x; p < PARTS; p += THREADS) m.sum += parts[row * PARTS + p].sum, m.square += parts[row * PARTS + p].square;
  m.sum = block_reduce<Sum, THREADS>(m.sum, scratch);
  m.square = block_reduce<Sum, THREADS>(m.square, scratch);
  float mean, inverse;
  finish(m, shifts(parts)[row], epsilon, mean, inverse);
  const int group = int(row % kGroups);
  const int64_t begin = int64_t(blockIdx.x) * PART, end = begin + PART < kGroupSize ? begin + PART : kGroupSize;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x * WIDTH; i < end; i += THREADS * WIDTH) {
    const int c = group * GROUP_CHANNELS + int(i / AREA);
    const float a = inverse * to_float(scale[c]), b = to_float(bias[c]) - mean * a;
    Vec<ELEMENT, WIDTH> v = load_vector<ELEMENT, WIDTH>(x + row * kGroupSize + i);
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) v.at[k] = from_float<ELEMENT>(fmaf(to_float(v.at[k]), a, b));
    store_vector<ELEMENT, WIDTH>(y + row * kGroupSize + i, v);
  }
}

#endif
