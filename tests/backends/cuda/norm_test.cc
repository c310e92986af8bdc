#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

Tensor positive(int64_t n) {
  std::vector<float> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(0.2f + 0.1f * static_cast<float>(i % 17));
  return Tensor::of<float>({n}, values);
}

TEST(CudaNorm, LayerAndRms) {
  for (const char* dtype : {"f32", "f16", "bf16"}) {
    for (const char* shape : {"3,5", "2,3,768", "5,1000"}) {
      const std::string n = std::string(shape).substr(std::string(shape).rfind(',') + 1);
      check_cuda_kernels(
          {fmt::format("graph main(%x: {0}[{1}], %s: {0}[{2}], %b: {0}[{2}]) {{ %y = layer_norm(%x, %s, %b) {{epsilon=1e-5}} return %y }}",
                       dtype, shape, n)});
      check_cuda_kernels(
          {fmt::format("graph main(%x: {0}[{1}], %s: f32[{2}]) {{ %y = rms_norm(%x, %s) {{epsilon=1e-6}} return %y }}", dtype, shape, n)});
    }
    check_cuda_kernels({fmt::format("graph main(%x: {}[2048,640]) {{ %y = rms_norm(%x) return %y }}", dtype)});
  }
  check_cuda_kernels(
      {"graph main(%x: f32[2,4,30], %s: f32[4,30], %b: f32[1]) { %y, %m, %i = layer_norm(%x, %s, %b) {axis=1} return %y, %m, %i }"});
  check_cuda_kernels({"graph main(%x: f32[7,1]) { %y = layer_norm(%x) return %y }"});
  check_cuda_kernels({"graph main(%x: f32[2,70000]) { %y = layer_norm(%x) return %y }"});
  check_cuda_kernels({"graph main(%x: f16[1,16384], %s: f16[16384]) { %y = rms_norm(%x, %s) return %y }"});
}

TEST(CudaNorm, WeightsAreReadEarly) {
  for (const char* dtype : {"f32", "f16"})
    for (const char* n : {"33", "2048", "4096"})
      for (const char* rows : {"1", "1500"})
        check_cuda_kernels(
            {fmt::format("graph main(%x: {0}[{2},{1}], %w: {0}[{1}]) {{ %y = rms_norm(%x, %w) return %y }}", dtype, n, rows)});
  check_cuda_kernels(
      {"graph main(%x: bf16[2,768], %r: bf16[2,768], %w: f32[768], %wb: f32[768]) { %y, %z = add_layer_norm(%x, %r, %w, %wb) return %y, %z "
       "}"});
}

TEST(CudaNorm, WithResidual) {
  for (const char* dtype : {"f32", "bf16"})
    for (const char* op : {"add_layer_norm", "add_rms_norm"}) {
      check_cuda_kernels({fmt::format(
          "graph main(%x: {0}[2,3,40], %r: {0}[2,3,40], %s: {0}[40], %b: f32[40]) {{ %y, %z = {1}(%x, %r, %s, %b) return %y, %z }}", dtype,
          op)});
      check_cuda_kernels({fmt::format(
          "graph main(%x: {0}[3,4096], %r: {0}[3,4096], %s: {0}[4096]) {{ %y, %z = {1}(%x, %r, %s) return %y, %z }}", dtype, op)});
    }
  check_cuda_kernels({"graph main(%x: f16[5,33], %r: f16[33], %s: f16[33]) { %y = add_rms_norm(%x, %r, %s) return %y }"});
  check_cuda_kernels({"graph main(%x: f32[2,40000], %r: f32[2,40000]) { %y, %z = add_layer_norm(%x, %r) return %y, %z }"});
}

TEST(CudaNorm, Groups) {
  for (const char* dtype : {"f32", "f16"}) {
    check_cuda_kernels({fmt::format(
        "graph main(%x: {0}[2,8,5,7], %s: {0}[8], %b: {0}[8]) {{ %y = group_norm(%x, %s, %b) {{num_groups=4}} return %y }}", dtype)});
    check_cuda_kernels({fmt::format(
        "graph main(%x: {0}[2,24,16,16], %s: f32[24], %b: f32[24]) {{ %y = group_norm(%x, %s, %b) {{num_groups=3}} return %y }}", dtype)});
    check_cuda_kernels(
        {fmt::format("graph main(%x: {0}[2,5,7,8], %s: {0}[8], %b: {0}[8]) {{ %y = group_norm(%x, %s, %b) {{num_groups=4, "
                     "layout=\"NHWC\"}} return %y }}",
                     dtype)});
    check_cuda_kernels(
        {fmt::format("graph main(%x: {0}[2,32,32,320], %s: {0}[320], %b: {0}[320]) {{ %y = group_norm(%x, %s, %b) {{num_groups=32, "
                     "layout=\"NHWC\"}} return %y }}",
                     dtype)});
    check_cuda_kernels({fmt::format(
        "graph main(%x: {0}[2,3,9,5], %s: {0}[3], %b: {0}[3]) {{ %y = instance_norm(%x, %s, %b) {{epsilon=1e-3}} return %y }}", dtype)});
  }
  check_cuda_kernels(
      {"graph main(%x: f32[1,320,64,64], %s: f32[320], %b: f32[320]) { %y = group_norm(%x, %s, %b) {num_groups=32} return %y }"});
}

TEST(CudaNorm, BatchAndResponse) {
  for (const char* shape : {"2,6,5,5", "2,6,4,4", "3,6"})
    check_cuda_kernels({.text = fmt::format("graph main(%x: f32[{}], %s: f32[6], %b: f32[6], %m: f32[6], %v: f32[6]) {{ %y = "
                                            "batch_norm(%x, %s, %b, %m, %v) {{epsilon=1e-3}} return %y }}",
                                            shape),
                        .inputs = {{}, {}, {}, {}, positive(6)}});
  check_cuda_kernels({.text = "graph main(%x: f16[2,16,3,3], %s: f32[16], %b: f32[16], %m: f32[16], %v: f32[16]) { %y = batch_norm(%x, %s, "
                              "%b, %m, %v) return %y }",
                      .inputs = {{}, {}, {}, {}, positive(16)}});
  for (const char* dtype : {"f32", "bf16"})
    for (int size : {1, 4, 5})
      check_cuda_kernels({fmt::format(
          "graph main(%x: {}[2,7,3,5]) {{ %y = lrn(%x) {{size={}, alpha=0.5, beta=0.75, bias=1.5}} return %y }}", dtype, size)});
}

TEST(CudaNorm, CompilesForEveryArchitecture) {
  check_cuda_kernels({"graph main(%x: bf16[4,4096], %r: bf16[4,4096], %s: bf16[4096]) { %y, %z = add_rms_norm(%x, %r, %s) return %y, %z }"},
                     {"sm_80", "sm_89", "sm_90", "sm_120"});
}

}  // namespace
}  // namespace tokamak::test
#endif
