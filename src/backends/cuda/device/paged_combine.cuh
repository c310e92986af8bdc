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
    if (state.y != 0.f) partial[(at * splits + split) * HEAD_DIM + d] = sum;  // else it is not read
    if (d == 0) {
      float* const states = partial + int64_t(rows) * HEADS * splits * HEAD_DIM;
      reinterpret_cast<float2*>(states)[at * splits + split] = state;
    }
  }
}

// One warp a head of a row.
extern "C" __global__ void __launch_bounds__(128)
    paged_combine(const float* partial, ACTIVATION* __restrict__ y, int rows, int splits, float v_scale) {
  wait_for_previous();
  allow_next();
  const int lane = threadIdx.x % 32;
  const int64_t at = int64_t(blockIdx.x) * 4 + threadIdx.x / 32;
  if (at >= int64_t(rows) * HEADS) return;
  const auto* states = reinterpret_cast<const float2*>(partial + int64_t(rows) * HEADS * splits * HEAD_DIM) + at * splits;
  // A lane has the states of splits `lane` and `lane` + 32; there are at most 64.
  float2 state[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    state[i] = float2{nothing(), 0};
    if (lane + i * 32 < splits) state[i] = states[lane + i * 32];
  }
  const float shift = finite_or_zero(warp_reduce<Max>(fmaxf(state[0].x, state[1].x)));
  uint32_t wanted[2];  // short sequences leave most splits empty
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    wanted[i] = __ballot_sync(~0u, state[i].y != 0.f);
    state[i].x = exp2f(state[i].x - shift);
  }
  const float total = warp_reduce<Sum>(state[0].x * state[0].y + state[1].x * state[1].y);
  const float scale = total == 0.f ? 0.f : v_scale / total;
  constexpr int kParts = (HEAD_DIM + 31) / 32, kAtOnce = 4;
  float sum[kParts] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i)
    while (wanted[i] != 0) {
      float factor[kAtOnce], part[kAtOnce][kParts];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        const bool is_there = wanted[i] != 0;
        const int s = is_there ? __ffs(wanted[i]) - 1 : 0;
        wanted[i] &= wanted[i] - 1;
        factor[n] = __shfl_sync(~0u, state[i].x, s);
#pragma unroll
        for (int j = 0; j < kParts; ++j) {
          part[n][j] = 0;
          if (is_there && j * 32 + lane < HEAD_DIM) part[n][j] = partial[(at * splits + s + i * 32) * HEAD_DIM + j * 32 + lane];
        }
      }
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n)
#pragma unroll
        for (int j = 0; j < kParts; ++j) sum[j] += factor[n] * part[n][j];
    }
#pragma unroll
  for (int j = 0; j < kParts; ++j)
    if (j * 32 + lane < HEAD_DIM) y[at * HEAD_DIM + j * 32 + lane] = from_float<ACTIVATION>(sum[j] * scale);
}
