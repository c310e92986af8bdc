#pragma once
// The loops of group_norm in NHWC, one copy an instruction set.

#include <cstdint>

namespace tokamak::cpu {

struct GroupNormLoops {
  // Adds the sums and the sums of squares of `pixels` rows of `channels` values to sum[channels] and square[channels].
  void (*accumulate)(const float* x, int64_t pixels, int64_t channels, double* sum, double* square);
  // y = x * scale[channel] + shift[channel]; y may be x.
  void (*apply)(float* y, const float* x, int64_t pixels, int64_t channels, const float* scale, const float* shift);
};
const GroupNormLoops& group_norm_loops_avx512();
const GroupNormLoops& group_norm_loops_avx2();

}  // namespace tokamak::cpu
