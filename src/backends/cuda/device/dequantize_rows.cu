// Rows of quantized weights as ELEMENT (f16, bf16): value times scale, rounded once. WEIGHT: int8_t, i4 or f8e4m3, dense rows of K_SIZE, a
// multiple of 16; SCALE_ELEMENT: [rows, ceil(K_SIZE / GROUP)], GROUP a multiple of 16 or K_SIZE. A thread takes 16 neighbours.
#include "weights.cuh"

constexpr int kUnits = K_SIZE / 16, kGroups = (K_SIZE + GROUP - 1) / GROUP;

// Elements 4 i to 4 i + 3 of the unit. Integers become floats through the mantissa of 2^23: a byte or nibble b, made unsigned, is
// (2^23 + b) - 2^23 exactly.
template <class W>
struct Four;
template <>
struct Four<int8_t> {
  static DEVICE void of(const Raw<16>& raw, int i, float (&v)[4]) {
    const uint32_t word = raw.word[i] ^ 0x80808080;
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = __uint_as_float(__byte_perm(word, 0x4b000000, 0x7440 + k)) - (8388608.f + 128.f);
  }
};
template <>
struct Four<i4> {
  static DEVICE void of(const Raw<8>& raw, int i, float (&v)[4]) {
    const uint32_t word = (raw.word[i / 2] >> (i % 2 * 16)) ^ 0x8888;
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = __uint_as_float((word >> (4 * k) & 15) | 0x4b000000) - (8388608.f + 8.f);
  }
};
template <>
struct Four<f8e4m3> {
  static DEVICE void of(const Raw<16>& raw, int i, float (&v)[4]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = weight_at<f8e4m3>(raw, 4 * i + k);
  }
};

extern "C" __global__ void __launch_bounds__(256)
    dequantize_rows(Weights<uint8_t> w, Weights<SCALE_ELEMENT> scales, ELEMENT* __restrict__ out, int rows) {
  constexpr int kBytes = Weight<WEIGHT>::kBits * 2;
  const int64_t index = int64_t(blockIdx.x) * 256 + threadIdx.x;
  const bool in_range = index < int64_t(rows) * kUnits;
  Raw<kBytes> raw{};
  float scale = 0;
  if (in_range) {  // weights and scales: no kernel writes them
    raw = load_streaming<kBytes>(w + index * kBytes);
    const int64_t row = index / kUnits, col = index % kUnits * 16;
    scale = to_float(scales[row * kGroups + col / GROUP]);
  }
  wait_for_previous();  // which may still read what `out` held
  if (!in_range) return;
  Vec<ELEMENT, 8> half[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float v[4];
    Four<WEIGHT>::of(raw, i, v);
#pragma unroll
    for (int k = 0; k < 4; ++k) half[i / 2].at[i % 2 * 4 + k] = from_float<ELEMENT>(v[k] * scale);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) *reinterpret_cast<Vec<ELEMENT, 8>*>(out + index * 16 + i * 8) = half[i];
}
