// kv_cache_write: one warp a head of a token: norm, rope, then q to its output, k and v to the token's slot.
// ACTIVATION (qkv and q), CACHE, ANGLE (cos, sin), NORM: element types. HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE; HALF: rotated pairs;
// INTERLEAVED; HAS_Q_NORM, HAS_K_NORM; VECTOR: elements a load, divides HEAD_DIM; WARPS a block.
#include "rotate.cuh"

constexpr int kRows = HEADS + 2 * KV_HEADS;

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    kv_cache_write(const ACTIVATION* qkv, CACHE* __restrict__ cache, const int32_t* slots, const ANGLE* cos, const ANGLE* sin,
                   const NORM* q_norm, const NORM* k_norm, ACTIVATION* __restrict__ q, int tokens, int64_t num_slots, float epsilon,
                   float k_inverse, float v_inverse) {
  __shared__ __align__(16) float exchange[WARPS][HALF > 0 ? HEAD_DIM : 1];
  wait_for_previous();
  allow_next();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t item = int64_t(blockIdx.x) * WARPS + warp;
  if (item >= int64_t(tokens) * kRows) return;
  const int token = int(item / kRows), head = int(item % kRows);
  const bool is_query = head < HEADS, is_key = !is_query && head < HEADS + KV_HEADS;
  const int slot = slots[token];
  if (!is_query && (slot < 0 || slot >= num_slots)) return;

  HeadPart x;
  x.load(qkv + item * HEAD_DIM, lane);
  if ((HAS_Q_NORM && is_query) || (HAS_K_NORM && is_key)) {
    NormPart norm;
    norm.load(is_query ? q_norm : k_norm, lane);
    x.normalize(norm, epsilon);
  }
  if (HALF > 0 && (is_query || is_key)) {
    RowAngles angles;
    angles.load(cos, sin, token, lane);
    x.rotate(angles, exchange[warp], lane);
  }
  if (is_query) {
    x.store(q + (int64_t(token) * HEADS + head) * HEAD_DIM, 1, lane);
  } else {
    const int64_t plane = (int64_t(slot / BLOCK_SIZE) * 2 + !is_key) * KV_HEADS + (head - HEADS) % KV_HEADS;
    x.store(cache + (plane * BLOCK_SIZE + slot % BLOCK_SIZE) * HEAD_DIM, is_key ? k_inverse : v_inverse, lane);
  }
}
