// What splits of a row's tokens leave, and the kernel that adds them up. A state is {largest score, sum of weights relative to it}.
#pragma once
#include "cache.cuh"

// The state of all; each entry's largest score becomes the factor that its sums are multiplied with.
template <int kCount>
DEVICE float2 merge_states(float2 (&state)[kCount]) {
  float2 all{nothing(), 0};
#pragma unroll
  for (int i = 0; i < kCount; ++i) all.x = fmaxf(all.x, state[i].x);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    state[i].x = exp2f(state[i].x - finite_or_zero(all.x));
    all.y += state[i].x * state[i].y;
  }
  return all;
}

// Element d of a head's sums over one split: to the output when there is one split, else to `partial`: sums [rows * HEADS, splits,
// HEAD_DIM], then states [rows * HEADS, splits, 2].
DEVICE void write_part(ACTIVATION* y, float* partial, int rows, int row, int head, int split, int splits, int d, float sum, float2 state,
                       float v_scale) {
  const int64_t at = int64_t(row) * HEADS + head;
  if (splits == 1) {
    y[at * HEAD_DIM + d] = from_float<ACTIVATION>(state.y == 0.f ? 0.f : sum / state.y * v_scale);
  } else {
    partial[(at * splits + split) * HEAD_DIM + d] = sum;
    if (d == 0) {
      float* const states = partial + int64_t(rows) * HEADS * splits * HEAD_DIM;
      reinterpret_cast<float2*>(states)[at * splits + split] = state;
    }
  }
}

// One warp a head of a row.
extern "C" __global__ void __launch_bounds__(128)
    paged_combine(const float* __restrict__ partial, ACTIVATION* __restrict__ y, int rows, int splits, float v_scale) {
  wait_for_previous();
  allow_next();
  const int lane = threadIdx.x % 32;
  const int64_t at = int64_t(blockIdx.x) * 4 + threadIdx.x / 32;
  if (at >= int64_t(rows) * HEADS) return;
  const auto* states = reinterpret_cast<const float2*>(partial + int64_t(rows) * HEADS * splits * HEAD_DIM) + at * splits;
  float largest = nothing(), total = 0;
  for (int s = 0; s < splits; ++s) largest = fmaxf(largest, states[s].x);
  const float shift = finite_or_zero(largest);
  for (int s = 0; s < splits; ++s) total += exp2f(states[s].x - shift) * states[s].y;
  const float scale = total == 0.f ? 0.f : v_scale / total;
  for (int d = lane; d < HEAD_DIM; d += 32) {
    float sum = 0;
#pragma unroll 8
    for (int s = 0; s < splits; ++s) sum += exp2f(states[s].x - shift) * partial[(at * splits + s) * HEAD_DIM + d];
    y[at * HEAD_DIM + d] = from_float<ACTIVATION>(sum * scale);
  }
}
