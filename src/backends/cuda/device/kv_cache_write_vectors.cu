// kv_cache_write in 16-byte vectors: norm, rope, then q to its output, k and v to the token's slot. A lane has two vectors of eight
// elements of a head, HEAD_DIM / 2 apart, so that whatever is rotated with each other is in one lane's registers; a warp has several heads
// of one token, ROUNDS times, and their cos and sin once. ACTIVATION (qkv and q, 16 bits), CACHE, ANGLE (cos, sin), NORM: element types.
// HEADS, KV_HEADS, BLOCK_SIZE; HEAD_DIM: 16 times a power of two up to 512; HALF: rotated pairs, 0 or HEAD_DIM / 2; INTERLEAVED;
// HAS_Q_NORM, HAS_K_NORM; ROUNDS; WARPS a block.
#include "load_now.cuh"

constexpr int kRows = HEADS + 2 * KV_HEADS, kLanes = HEAD_DIM / 16, kAtOnce = 32 / kLanes;
constexpr int kWarpsOfToken = (kRows + kAtOnce * ROUNDS - 1) / (kAtOnce * ROUNDS);

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    kv_cache_write(const ACTIVATION* qkv, CACHE* __restrict__ cache, const int32_t* slots, const ANGLE* cos, const ANGLE* sin,
                   const NORM* q_norm, const NORM* k_norm, ACTIVATION* __restrict__ q, int tokens, int64_t num_slots, float epsilon,
                   float k_inverse, float v_inverse) {
  using Raw = Vec<ACTIVATION, 8>;
  wait_for_previous();
  allow_next();
  const int lane = threadIdx.x % 32, part = lane % kLanes;
  const int64_t warp = int64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
  if (warp >= int64_t(tokens) * kWarpsOfToken) return;
  const int token = int(warp / kWarpsOfToken), first = int(warp % kWarpsOfToken) * kAtOnce * ROUNDS + lane / kLanes;

  Raw raw[ROUNDS][2] = {};
#pragma unroll
  for (int r = 0; r < ROUNDS; ++r) {
    const int head = first + r * kAtOnce;
    const ACTIVATION* const from = qkv + (int64_t(token) * kRows + head) * HEAD_DIM + part * 8;
    if (head < kRows)
#pragma unroll
      for (int v = 0; v < 2; ++v) raw[r][v] = load_now(reinterpret_cast<const Raw*>(from + v * (HEAD_DIM / 2)));
  }
  const int slot = load_now(slots + token);
  float c[8], s[8];
  if constexpr (HALF > 0) {
    // Pairs that lie together are four of each vector, others one of each element of the first.
    constexpr int kLoads = INTERLEAVED ? 2 : 1, kLoad = 8 / kLoads;
#pragma unroll
    for (int v = 0; v < kLoads; ++v) {
      const int64_t at = int64_t(token) * HALF + part * kLoad + v * (HALF / 2);
      const auto cosines = load_now(reinterpret_cast<const Vec<ANGLE, kLoad>*>(cos + at));
      const auto sines = load_now(reinterpret_cast<const Vec<ANGLE, kLoad>*>(sin + at));
#pragma unroll
      for (int i = 0; i < kLoad; ++i) c[v * kLoad + i] = to_float(cosines.at[i]), s[v * kLoad + i] = to_float(sines.at[i]);
    }
  }

#pragma unroll
  for (int r = 0; r < ROUNDS; ++r) {
    const int head = first + r * kAtOnce;
    const bool is_query = head < HEADS, is_key = !is_query && head < HEADS + KV_HEADS;
    float x[2][8];
#pragma unroll
    for (int v = 0; v < 2; ++v)
#pragma unroll
      for (int i = 0; i < 8; ++i) x[v][i] = to_float(raw[r][v].at[i]);
    if constexpr (HAS_Q_NORM || HAS_K_NORM) {
      float squares = 0;
#pragma unroll
      for (int v = 0; v < 2; ++v)
#pragma unroll
        for (int i = 0; i < 8; ++i) squares += x[v][i] * x[v][i];
#pragma unroll
      for (int offset = kLanes / 2; offset > 0; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
      const float inverse = rsqrtf(squares / HEAD_DIM + epsilon);
      if ((HAS_Q_NORM && is_query) || (HAS_K_NORM && is_key)) {
        const NORM* const norm = (is_query ? q_norm : k_norm) + part * 8;
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          const auto scale = *reinterpret_cast<const Vec<NORM, 8>*>(norm + v * (HEAD_DIM / 2));
#pragma unroll
          for (int i = 0; i < 8; ++i) x[v][i] *= inverse * to_float(scale.at[i]);
        }
      }
    }
    if (head >= kRows) continue;
    if (HALF > 0 && (is_query || is_key)) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float& a = INTERLEAVED ? x[i / 4][i % 4 * 2] : x[0][i];
        float& b = INTERLEAVED ? x[i / 4][i % 4 * 2 + 1] : x[1][i];
        const float old = a;
        a = old * c[i] - b * s[i], b = old * s[i] + b * c[i];
      }
    }
    if (is_query) {
      ACTIVATION* const to = q + (int64_t(token) * HEADS + head) * HEAD_DIM + part * 8;
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        Raw out;
#pragma unroll
        for (int i = 0; i < 8; ++i) out.at[i] = from_float<ACTIVATION>(x[v][i]);
        *reinterpret_cast<Raw*>(to + v * (HEAD_DIM / 2)) = out;
      }
    } else if (slot >= 0 && slot < num_slots) {
      const int64_t plane = (int64_t(slot / BLOCK_SIZE) * 2 + !is_key) * KV_HEADS + (head - HEADS) % KV_HEADS;
      CACHE* const to = cache + (plane * BLOCK_SIZE + slot % BLOCK_SIZE) * HEAD_DIM + part * 8;
      const float inverse = is_key ? k_inverse : v_inverse;
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        Vec<CACHE, 8> out;
#pragma unroll
        for (int i = 0; i < 8; ++i) out.at[i] = cached_from_float<CACHE>(x[v][i] * inverse);
        *reinterpret_cast<Vec<CACHE, 8>*>(to + v * (HEAD_DIM / 2)) = out;
      }
    }
  }
}
