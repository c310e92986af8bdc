#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

TEST(CudaSoftmax, MatchesRef) {
  for (const char* dtype : {"f32", "f16", "bf16"})
    for (const char* op : {"softmax", "log_softmax"}) {
      check_cuda_kernels({fmt::format("graph main(%x: {}[3,5,7]) {{ %y = {}(%x) {{axis=1}} return %y }}", dtype, op)});
      check_cuda_kernels({fmt::format("graph main(%x: {}[2,1000]) {{ %y = {}(%x) {{axis=-1}} return %y }}", dtype, op)});
      check_cuda_kernels({fmt::format("graph main(%x: {}[1,1]) {{ %y = {}(%x) {{axis=-1}} return %y }}", dtype, op)});
    }
}

TEST(CudaSoftmax, CompilesForEveryArchitecture) {
  check_cuda_kernels({"graph main(%x: f16[4,4096]) { %y = softmax(%x) {axis=-1} return %y }"},
                     {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"});
}

}  // namespace
}  // namespace tokamak::test
#endif
