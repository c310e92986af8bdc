// Adds up what parts of a row's tokens leave of a head: sums and a state {largest score, sum of weights relative to it}.
#pragma once
#include "cache.cuh"

// Of parts [0, count), `count` at most kMost; `all` is the state of all. Nothing is read of other parts.
template <int kMost, class State, class Sums>
DEVICE float4 merge_parts(int count, const State& state_of, const Sums& sums_of, float2& all) {
  float2 state[kMost];
  float4 sums[kMost];
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    state[i] = float2{nothing(), 0};
    sums[i] = float4{0, 0, 0, 0};
    if (i < count) state[i] = state_of(i), sums[i] = sums_of(i);
  }
  all = float2{nothing(), 0};
#pragma unroll
  for (int i = 0; i < kMost; ++i) all.x = fmaxf(all.x, state[i].x);
  float4 s{0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    const float factor = exp2f(state[i].x - finite_or_zero(all.x));
    all.y += factor * state[i].y;
    s.x += factor * sums[i].x, s.y += factor * sums[i].y, s.z += factor * sums[i].z, s.w += factor * sums[i].w;
  }
  return s;
}
