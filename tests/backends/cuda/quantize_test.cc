#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

Tensor scales(Shape shape) {
  const int64_t n = num_elements(shape);
  std::vector<float> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(0.01f + 0.003f * static_cast<float>(i % 13));
  return Tensor::of<float>(std::move(shape), values);
}

TEST(CudaQuantize, Quantize) {
  for (const char* to : {"u8", "i8"}) {
    check_cuda_kernels({.text = fmt::format("graph main(%x: f32[3,50], %s: f32[], %z: {}[]) {{ %y = quantize(%x, %s, %z) return %y }}", to),
                        .inputs = {{}, scales({})}});
    check_cuda_kernels(
        {.text = fmt::format("graph main(%x: f32[2,5,8], %s: f32[5], %z: {}[5]) {{ %y = quantize(%x, %s, %z) {{axis=1}} return %y }}", to),
         .inputs = {{}, scales({5})}});
  }
  check_cuda_kernels({.text = "graph main(%x: bf16[4,33], %s: f32[33]) { %y = quantize(%x, %s) {axis=-1, to=i8} return %y }",
                      .inputs = {{}, scales({33})}});
  check_cuda_kernels({.text = "graph main(%x: f32[4,10], %s: f32[4,4]) { %y = quantize(%x, %s) {axis=1, block_size=3, to=i8} return %y }",
                      .inputs = {{}, scales({4, 4})}});
  for (const char* to : {"i16", "u16", "i32"})
    check_cuda_kernels({.text = fmt::format("graph main(%x: f32[4,33], %s: f32[]) {{ %y = quantize(%x, %s) {{to={}}} return %y }}", to),
                        .inputs = {{}, scales({})}});
  for (const char* to : {"f8e4m3fn", "f8e5m2"})
    check_cuda_kernels({.text = fmt::format("graph main(%x: f32[4,33], %s: f32[]) {{ %y = quantize(%x, %s) {{to={}}} return %y }}", to),
                        .inputs = {{}, scales({})}});
}

TEST(CudaQuantize, Dequantize) {
  for (const char* from : {"u8", "i8", "i32"}) {
    check_cuda_kernels(
        {.text = fmt::format("graph main(%x: {0}[3,50], %s: f32[], %z: {0}[]) {{ %y = dequantize(%x, %s, %z) return %y }}", from),
         .inputs = {{}, scales({})}});
    check_cuda_kernels(
        {.text =
             fmt::format("graph main(%x: {0}[2,5,8], %s: f32[5], %z: {0}[5]) {{ %y = dequantize(%x, %s, %z) {{axis=1}} return %y }}", from),
         .inputs = {{}, scales({5})}});
  }
  for (const char* from : {"i4", "u4"}) {
    check_cuda_kernels(
        {.text = fmt::format(
             "graph main(%x: {0}[4,32], %s: f32[4,4], %z: {0}[4,4]) {{ %y = dequantize(%x, %s, %z) {{axis=1, block_size=8}} return %y }}",
             from),
         .inputs = {{}, scales({4, 4})}});
    check_cuda_kernels(
        {.text =
             fmt::format("graph main(%x: {0}[5,7], %s: f32[5], %z: {0}[5]) {{ %y = dequantize(%x, %s, %z) {{axis=0}} return %y }}", from),
         .inputs = {{}, scales({5})}});
  }
  check_cuda_kernels({"graph main(%x: i8[40,16], %s: f16[40]) { %y = dequantize(%x, %s) {axis=0} return %y }"});
}

TEST(CudaQuantize, Dynamic) {
  for (const char* shape : {"100", "3,7000", "1"})
    check_cuda_kernels({fmt::format("graph main(%x: f32[{}]) {{ %y, %s, %z = dynamic_quantize(%x) return %y, %s, %z }}", shape)});
}

}  // namespace
}  // namespace tokamak::test
#endif
