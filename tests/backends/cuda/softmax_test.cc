#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include <cmath>

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

TEST(CudaSoftmax, LongAndShortRows) {
  for (const char* shape : {"3,70000", "3,70001", "2000,64", "1,4096", "9,12", "5,4097"})
    check_cuda_kernels({fmt::format("graph main(%x: f32[{}]) {{ %y = softmax(%x) return %y }}", shape)});
  for (const char* shape : {"2,300,5", "70000,3", "2,5,100"})
    check_cuda_kernels({fmt::format("graph main(%x: f32[{}]) {{ %y = log_softmax(%x) {{axis=-2}} return %y }}", shape)});
  const float low = -INFINITY;
  const Tensor x = Tensor::of<float>({3, 4}, {1, low, 3, low, low, low, low, low, 2, NAN, 1, 0});
  for (int axis : {0, 1})
    check_cuda_kernels({.text = fmt::format("graph main(%x: f32[3,4]) {{ %y = softmax(%x) {{axis={}}} return %y }}", axis), .inputs = {x}});
}

TEST(CudaSoftmax, CompilesForEveryArchitecture) {
  check_cuda_kernels({"graph main(%x: f16[4,4096]) { %y = softmax(%x) {axis=-1} return %y }"},
                     {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"});
}

}  // namespace
}  // namespace tokamak::test
#endif
