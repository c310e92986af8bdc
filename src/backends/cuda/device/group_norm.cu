// group_norm and instance_norm: one block a group of one image, in three passes over it. ELEMENT; SCALE_TYPE, BIAS_TYPE. GROUP_CHANNELS,
// CHANNELS, AREA. CHANNELS_LAST. WIDTH divides AREA (channels first) or GROUP_CHANNELS (channels last).
#include "row.cuh"

constexpr int64_t kGroupSize = int64_t(GROUP_CHANNELS) * AREA;

// Element i of the group (in WIDTH steps) within the image, and its channel within the group.
DEVICE int64_t offset_of(int64_t i, int& channel) {
#if CHANNELS_LAST
  channel = int(i % GROUP_CHANNELS);
  return i / GROUP_CHANNELS * CHANNELS + channel;
#else
  channel = int(i / AREA);
  return i;
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS)
    group_norm(const ELEMENT* x, const SCALE_TYPE* __restrict__ scale, const BIAS_TYPE* __restrict__ bias, ELEMENT* y, float epsilon) {
  __shared__ float scratch[32];
  wait_for_previous();
  constexpr int kGroups = CHANNELS / GROUP_CHANNELS;
  const int group = blockIdx.x % kGroups;
  const int64_t image = blockIdx.x / kGroups;
  const int64_t base = image * CHANNELS * AREA + int64_t(group) * (CHANNELS_LAST ? GROUP_CHANNELS : kGroupSize);
  int channel;
  float mean = 0;
  for (int64_t i = int64_t(threadIdx.x) * WIDTH; i < kGroupSize; i += THREADS * WIDTH) {
    const Vec<ELEMENT, WIDTH> v = load_vector<ELEMENT, WIDTH>(x + base + offset_of(i, channel));
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) mean += to_float(v.at[k]);
  }
  mean = block_reduce<Sum, THREADS>(mean, scratch) / float(kGroupSize);
  float square = 0;
  for (int64_t i = int64_t(threadIdx.x) * WIDTH; i < kGroupSize; i += THREADS * WIDTH) {
    const Vec<ELEMENT, WIDTH> v = load_vector<ELEMENT, WIDTH>(x + base + offset_of(i, channel));
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) square += (to_float(v.at[k]) - mean) * (to_float(v.at[k]) - mean);
  }
  const float inverse = rsqrtf(block_reduce<Sum, THREADS>(square, scratch) / float(kGroupSize) + epsilon);
  for (int64_t i = int64_t(threadIdx.x) * WIDTH; i < kGroupSize; i += THREADS * WIDTH) {
    const int64_t at = base + offset_of(i, channel);
    const int first = group * GROUP_CHANNELS + channel;
    Vec<ELEMENT, WIDTH> v = load_vector<ELEMENT, WIDTH>(x + at);
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      const int c = CHANNELS_LAST ? first + k : first;
      v.at[k] = from_float<ELEMENT>((to_float(v.at[k]) - mean) * inverse * to_float(scale[c]) + to_float(bias[c]));
    }
    store_vector<ELEMENT, WIDTH>(y + at, v);
  }
}
