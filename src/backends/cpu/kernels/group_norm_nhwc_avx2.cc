#include "backends/cpu/kernels/group_norm_nhwc.h"
#include "backends/cpu/kernels/group_norm_nhwc.inc"

const GroupNormLoops& group_norm_loops_avx2() {
  static constexpr GroupNormLoops kLoops{accumulate, apply};
  return kLoops;
}

}  // namespace tokamak::cpu
