#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include <cmath>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

TEST(CudaSearch, RunningSums) {
  for (const char* dtype : {"f32", "f16", "i64", "i8"})
    for (const char* attrs : {"", "exclusive=1", "reverse=1, exclusive=1"})
      for (const char* shape : {"3,700", "5,3"}) {
        CudaCase c{.text = fmt::format("graph main(%x: {}[{}]) {{ %a = const i64[] {{-1}} %y = cumsum(%x, %a) {{{}}} return %y }}", dtype,
                                       shape, attrs),
                   .inputs = {}};
        check_cuda_kernels(c);
      }
  check_cuda_kernels({"graph main(%x: f32[4,50,6]) { %a = const i64[] {1} %y = cumsum(%x, %a) {reverse=1} return %y }"});
  check_cuda_kernels({"graph main(%x: f32[2,20]) { %a = const i32[] {1} %y = cumprod(%x, %a) return %y }"});
  check_cuda_kernels({"graph main(%x: i64[2,20,3]) { %a = const i64[] {1} %y = cumprod(%x, %a) {exclusive=1} return %y }"});
}

TEST(CudaSearch, Arg) {
  for (const char* op : {"argmax", "argmin"})
    for (const char* dtype : {"f32", "f16", "i64", "u8"})
      for (int last : {0, 1}) {
        CudaCase c{
            .text = fmt::format("graph main(%x: {}[3,1000]) {{ %y = {}(%x) {{axis=1, select_last={}}} return %y }}", dtype, op, last),
            .inputs = {},
            .max_int = 20};
        check_cuda_kernels(c);
        c.text =
            fmt::format("graph main(%x: {}[4,30,5]) {{ %y = {}(%x) {{axis=1, keepdims=0, select_last={}}} return %y }}", dtype, op, last);
        check_cuda_kernels(c);
      }
  check_cuda_kernels({"graph main(%x: f16[2,32000]) { %y = argmax(%x) {axis=-1} return %y }"});
  const Tensor x = Tensor::of<float>(
      {4, 9}, {1,         NAN,       3,         3, 2,    1, 0,         3,         NAN,       NAN,       1,         2,
               5,         5,         1,         1, 1,    1, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
               -INFINITY, -INFINITY, -INFINITY, 0, -0.f, 0, 0,         0,         -0.f,      0,         0,         0});
  for (int last : {0, 1})
    for (int axis : {0, 1})
      check_cuda_kernels(
          {.text = fmt::format("graph main(%x: f32[4,9]) {{ %y = argmax(%x) {{axis={}, select_last={}}} return %y }}", axis, last),
           .inputs = {x}});
}

TEST(CudaSearch, TopK) {
  for (const char* dtype : {"f32", "f16", "i64", "i32", "u8", "f64"})
    for (int largest : {0, 1}) {
      check_cuda_kernels(
          {.text = fmt::format("graph main(%x: {}[3,40]) {{ %k = const i64[1] {{7}} %v, %i = topk(%x, %k) {{largest={}}} return %v, %i }}",
                               dtype, largest),
           .inputs = {},
           .max_int = 15});
      check_cuda_kernels(
          {.text =
               fmt::format("graph main(%x: {}[2,5000]) {{ %k = const i64[1] {{100}} %v, %i = topk(%x, %k) {{largest={}}} return %v, %i }}",
                           dtype, largest),
           .inputs = {},
           .max_int = 1000});
    }
  check_cuda_kernels({"graph main(%x: f32[3,50,4]) { %k = const i64[1] {50} %v, %i = topk(%x, %k) {axis=1} return %v, %i }"});
  check_cuda_kernels({"graph main(%x: f32[3000,4]) { %k = const i64[1] {3} %v = topk(%x, %k) {axis=0} return %v }"});
  check_cuda_kernels({"graph main(%x: f32[2,9000]) { %k = const i64[1] {2048} %v, %i = topk(%x, %k) return %v, %i }"});
  const Tensor x = Tensor::of<float>({1, 10}, {1, NAN, -0.f, 0, INFINITY, -INFINITY, NAN, 1, 0, -0.f});
  for (int largest : {0, 1})
    check_cuda_kernels(
        {.text = fmt::format("graph main(%x: f32[1,10]) {{ %k = const i64[1] {{9}} %v, %i = topk(%x, %k) {{largest={}}} return %v, %i }}",
                             largest),
         .inputs = {x}});
  // Everything equal: ties go by index, in the sorted form and in the selected one.
  check_cuda_kernels({.text = "graph main(%x: f32[1,100]) { %k = const i64[1] {9} %v, %i = topk(%x, %k) return %v, %i }",
                      .inputs = {Tensor::zeros(DType::F32, {1, 100})}});
  check_cuda_kernels({.text = "graph main(%x: f32[1,9000]) { %k = const i64[1] {70} %v, %i = topk(%x, %k) return %v, %i }",
                      .inputs = {Tensor::zeros(DType::F32, {1, 9000})}});
}

}  // namespace
}  // namespace tokamak::test
#endif
