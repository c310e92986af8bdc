// group_norm and instance_norm: one block a group of one image, the group in registers, or read once a pass where it is too large. ELEMENT;
// SCALE_TYPE, BIAS_TYPE. GROUP_CHANNELS, CHANNELS, AREA. CHANNELS_LAST. WIDTH divides AREA (channels first) or GROUP_CHANNELS (channels
// last). THREADS; ITEMS: vectors a thread; IN_REGISTERS.
#include "row.cuh"

constexpr int64_t kGroupSize = int64_t(GROUP_CHANNELS) * AREA;
constexpr int64_t kStep = THREADS * WIDTH;
constexpr int kUnroll = IN_REGISTERS ? ITEMS : 1;

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
    group_norm(const ELEMENT* x, const SCALE_TYPE* scale, const BIAS_TYPE* bias, ELEMENT* y, float epsilon) {
  __shared__ float scratch[32];
  wait_with_next();
  constexpr int kGroups = CHANNELS / GROUP_CHANNELS;
  const int group = blockIdx.x % kGroups;
  const int64_t image = blockIdx.x / kGroups;
  const int64_t base = image * CHANNELS * AREA + int64_t(group) * (CHANNELS_LAST ? GROUP_CHANNELS : kGroupSize);
  int channel;
#if IN_REGISTERS
  Vec<ELEMENT, WIDTH> held[ITEMS];
#pragma unroll
  for (int item = 0; item < ITEMS; ++item)
    if (const int64_t i = item * kStep + threadIdx.x * WIDTH; i < kGroupSize)
      held[item] = load_vector<ELEMENT, WIDTH>(x + base + offset_of(i, channel));
#define LOAD(v) const Vec<ELEMENT, WIDTH>& v = held[item];
#else
#define LOAD(v) const Vec<ELEMENT, WIDTH> v = load_vector<ELEMENT, WIDTH>(x + base + offset_of(i, channel));
#endif
  float mean = 0;
#pragma unroll kUnroll
  for (int item = 0; item < ITEMS; ++item) {
    const int64_t i = item * kStep + threadIdx.x * WIDTH;
    if (i >= kGroupSize) break;
    LOAD(v)
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) mean += to_float(v.at[k]);
  }
  mean = block_reduce<Sum, THREADS>(mean, scratch) / float(kGroupSize);
  float square = 0;
#pragma unroll kUnroll
  for (int item = 0; item < ITEMS; ++item) {
    const int64_t i = item * kStep + threadIdx.x * WIDTH;
    if (i >= kGroupSize) break;
    LOAD(v)
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) square += (to_float(v.at[k]) - mean) * (to_float(v.at[k]) - mean);
  }
  const float inverse = rsqrtf(block_reduce<Sum, THREADS>(square, scratch) / float(kGroupSize) + epsilon);
#pragma unroll kUnroll
  for (int item = 0; item < ITEMS; ++item) {
    const int64_t i = item * kStep + threadIdx.x * WIDTH;
    if (i >= kGroupSize) break;
    const int64_t at = base + offset_of(i, channel);
    const int first = group * GROUP_CHANNELS + channel;
    LOAD(v)
    Vec<ELEMENT, WIDTH> out;
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      const int c = CHANNELS_LAST ? first + k : first;
      out.at[k] = from_float<ELEMENT>((to_float(v.at[k]) - mean) * inverse * to_float(scale[c]) + to_float(bias[c]));
    }
    store_vector<ELEMENT, WIDTH>(y + at, out);
  }
}
