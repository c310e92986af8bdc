#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

void check(const std::string& type, const std::string& call) {
  check_cuda_kernels({fmt::format("graph main(%x: {}) {{ %y = {} return %y }}", type, call)});
}

TEST(CudaPool, TwoAxes) {
  for (const char* dtype : {"f32", "f16"})
    for (const char* op : {"max_pool", "avg_pool", "lp_pool"}) {
      check(fmt::format("{}[2,3,11,13]", dtype), fmt::format("{}(%x) {{kernel=[3,2], strides=[2,3], pads=[1,0,1,1]}}", op));
      check(fmt::format("{}[2,11,13,16]", dtype),
            fmt::format("{}(%x) {{kernel=[3,3], strides=[2,2], pads=[1,1,1,1], layout=\"NHWC\"}}", op));
      check(fmt::format("{}[2,5,5,3]", dtype), fmt::format("{}(%x) {{kernel=[5,5], layout=\"NHWC\"}}", op));
    }
  check("f32[1,2,9,9]", "max_pool(%x) {kernel=[2,2], dilations=[3,2], strides=[2,2]}");
  check("f32[1,2,9,9]", "avg_pool(%x) {kernel=[3,3], strides=[2,2], ceil_mode=1}");
  check("f32[1,2,9,9]", "lp_pool(%x) {kernel=[3,3], p=1}");
  check("f32[1,2,9,9]", "lp_pool(%x) {kernel=[2,3], p=3}");
}

TEST(CudaPool, PaddingInTheMean) {
  for (int ceil : {0, 1})
    check("f32[2,2,8,7]",
          fmt::format("avg_pool(%x) {{kernel=[3,3], strides=[2,2], pads=[1,0,1,2], count_include_pad=1, ceil_mode={}}}", ceil));
  check("f32[2,2,8,7]", "avg_pool(%x) {kernel=[3,3], strides=[2,2], auto_pad=\"SAME_UPPER\"}");
  check("f32[2,2,8,7]", "max_pool(%x) {kernel=[3,3], strides=[2,2], auto_pad=\"SAME_LOWER\"}");
}

TEST(CudaPool, OneAndThreeAxesTypesIndices) {
  check("f32[2,3,20]", "max_pool(%x) {kernel=[4], strides=[3]}");
  check("bf16[2,3,6,7,8]", "avg_pool(%x) {kernel=[2,3,2], pads=[1,1,0,0,1,1]}");
  check("i8[2,3,6,6]", "max_pool(%x) {kernel=[2,2], strides=[2,2]}");
  check("f64[2,3,6,6]", "avg_pool(%x) {kernel=[2,2]}");
  for (int order : {0, 1}) {
    check_cuda_kernels({fmt::format(
        "graph main(%x: f32[2,3,6,8]) {{ %y, %i = max_pool(%x) {{kernel=[2,2], strides=[2,2], storage_order={}}} return %y, %i }}",
        order)});
    check_cuda_kernels({fmt::format(
        "graph main(%x: f32[2,6,8,4]) {{ %y, %i = max_pool(%x) {{kernel=[3,2], layout=\"NHWC\", storage_order={}}} return %y, %i }}",
        order)});
  }
}

}  // namespace
}  // namespace tokamak::test
#endif
