#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include <cmath>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

void check(const std::string& dtype, const std::string& shape, const std::string& op, const std::string& attrs, double atol = -1) {
  CudaCase c{.text = fmt::format("graph main(%x: {}[{}]) {{ %y = {}(%x) {{{}}} return %y }}", dtype, shape, op, attrs), .inputs = {}};
  c.atol = atol;
  check_cuda_kernels(c);
}

TEST(CudaReduce, AxesPatterns) {
  for (const char* axes :
       {"axes=[-1]", "axes=[0]", "axes=[1]", "axes=[0,2]", "axes=[1,2], keepdims=0", "axes=[0,1]", "axes=[]", "keepdims=0"})
    check("f32", "5,7,9", "reduce_sum", axes, 1e-4);
  for (const char* axes : {"axes=[1]", "axes=[2,3]", "axes=[1,3]", "axes=[0,2,3]"}) {
    check("f16", "2,6,4,16", "reduce_mean", axes);
    check("bf16", "2,6,4,16", "reduce_max", axes);
  }
  check("f32", "", "reduce_sum", "keepdims=0");
  check("f32", "1,1,1", "reduce_max", "");
  check("f32", "3,0,4", "reduce_sum", "axes=[1]");
  check("f32", "3,0", "reduce_max", "axes=[1]");
}

TEST(CudaReduce, SizesOfRowsAndColumns) {
  for (const char* shape : {"3,1", "1000,33", "3,1000", "2,5000", "2,4096"}) check("f32", shape, "reduce_mean", "axes=[1]");
  for (const char* shape : {"1,3", "33,1000", "1000,3", "5000,8", "4096,64"}) check("f32", shape, "reduce_mean", "axes=[0]");
  check("f32", "4000000", "reduce_sum", "", 2e-2);
  check("f16", "2,4000000", "reduce_max", "axes=[1]");
  check("f32", "500000,9", "reduce_sum", "axes=[0]", 2e-2);
  check("f32", "16,100000", "reduce_min", "axes=[0]");
}

TEST(CudaReduce, EveryKindAndType) {
  for (const char* op : {"reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod"})
    for (const char* dtype : {"f32", "f64", "i64", "i32", "i8", "u8", "bool"}) check(dtype, "4,11,3", op, "axes=[1]");
  for (const char* op : {"reduce_sum", "reduce_max"})
    for (const char* dtype : {"i64", "bool"}) check(dtype, "3,40", op, "axes=[1]");
  const Tensor x = Tensor::of<float>({3, 4}, {1, NAN, 3, 4, NAN, INFINITY, 0, 1, -INFINITY, 2, 2, 2});
  for (const char* op : {"reduce_max", "reduce_min", "reduce_sum"})
    check_cuda_kernels({.text = fmt::format("graph main(%x: f32[3,4]) {{ %y = {}(%x) {{axes=[1]}} return %y }}", op), .inputs = {x}});
  check_cuda_kernels({"graph main(%x: f32[3,4]) { %a = const i64[1] {-2} %y = reduce_sum(%x, %a) return %y }"});
}

}  // namespace
}  // namespace tokamak::test
#endif
