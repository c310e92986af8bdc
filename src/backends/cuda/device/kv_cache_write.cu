// kv_cache_write: one warp a head of a token: norm, rope, then q to its output, k and v to the token's slot.
// ACTIVATION (qkv and q), CACHE, ANGLE (cos, sin), NORM: element types. HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE; HALF: rotated pairs;
// INTERLEAVED; HAS_Q_NORM, HAS_K_NORM; VECTOR: elements a load, divides HEAD_DIM; WARPS a block.
#include "cache.cuh"

constexpr int kRows = HEADS + 2 * KV_HEADS, kVectors = HEAD_DIM / VECTOR, kPerLane = (kVectors + 31) / 32;

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    kv_cache_write(const ACTIVATION* __restrict__ qkv, CACHE* __restrict__ cache, const int32_t* __restrict__ slots,
                   const ANGLE* __restrict__ cos, const ANGLE* __restrict__ sin, const NORM* __restrict__ q_norm,
                   const NORM* __restrict__ k_norm, ACTIVATION* __restrict__ q, int tokens, int64_t num_slots, float epsilon,
                   float k_inverse, float v_inverse) {
  __shared__ float exchange[WARPS][HALF > 0 ? 2 * HALF : 1];
  wait_for_previous();
  allow_next();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t item = int64_t(blockIdx.x) * WARPS + warp;
  if (item >= int64_t(tokens) * kRows) return;
  const int token = int(item / kRows), head = int(item % kRows);
  const bool is_query = head < HEADS, is_key = !is_query && head < HEADS + KV_HEADS;
  const int slot = slots[token];
  if (!is_query && (slot < 0 || slot >= num_slots)) return;

  const auto* from = reinterpret_cast<const Vec<ACTIVATION, VECTOR>*>(qkv + item * HEAD_DIM);
  float x[kPerLane][VECTOR];
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int v = j * 32 + lane;
    Vec<ACTIVATION, VECTOR> raw{};
    if (v < kVectors) raw = from[v];
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) x[j][i] = to_float(raw.at[i]);
  }
  if ((HAS_Q_NORM && is_query) || (HAS_K_NORM && is_key)) {
    const NORM* norm = is_query ? q_norm : k_norm;
    float squares = 0;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j)
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) squares += x[j][i] * x[j][i];
    const float inverse = rsqrtf(warp_reduce<Sum>(squares) / HEAD_DIM + epsilon);
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int v = j * 32 + lane;
      if (v < kVectors)
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) x[j][i] *= inverse * to_float(norm[v * VECTOR + i]);
    }
  }
  if (HALF > 0 && (is_query || is_key)) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j)
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) {
        const int d = (j * 32 + lane) * VECTOR + i;
        if (d < 2 * HALF) exchange[warp][d] = x[j][i];
      }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kPerLane; ++j)
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) {
        const int d = (j * 32 + lane) * VECTOR + i;
        if (d >= 2 * HALF) continue;
        const bool is_first = INTERLEAVED ? d % 2 == 0 : d < HALF;
        const int pair = INTERLEAVED ? d / 2 : is_first ? d : d - HALF;
        const int partner = INTERLEAVED ? d ^ 1 : is_first ? d + HALF : d - HALF;
        const float other = exchange[warp][partner];
        const float c = to_float(cos[int64_t(token) * HALF + pair]), s = to_float(sin[int64_t(token) * HALF + pair]);
        x[j][i] = is_first ? x[j][i] * c - other * s : x[j][i] * c + other * s;
      }
  }
  if (is_query) {
    auto* to = reinterpret_cast<Vec<ACTIVATION, VECTOR>*>(q + (int64_t(token) * HEADS + head) * HEAD_DIM);
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      Vec<ACTIVATION, VECTOR> out;
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) out.at[i] = from_float<ACTIVATION>(x[j][i]);
      if (j * 32 + lane < kVectors) to[j * 32 + lane] = out;
    }
  } else {
    const int which = is_key ? 0 : 1, kv_head = (head - HEADS) % KV_HEADS;
    const int64_t plane = (int64_t(slot / BLOCK_SIZE) * 2 + which) * KV_HEADS + kv_head;
    auto* to = reinterpret_cast<Vec<CACHE, VECTOR>*>(cache + (plane * BLOCK_SIZE + slot % BLOCK_SIZE) * HEAD_DIM);
    const float inverse = is_key ? k_inverse : v_inverse;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      Vec<CACHE, VECTOR> out;
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) out.at[i] = cached_from_float<CACHE>(x[j][i] * inverse);
      if (j * 32 + lane < kVectors) to[j * 32 + lane] = out;
    }
  }
}
