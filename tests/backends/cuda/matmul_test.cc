#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

TEST(CudaMatmul, MatchesRef) {
  for (const char* t : float_types()) {
    check_cuda_kernels(sum_case(fmt::format("graph main(%a: {0}[7,33], %b: {0}[33,5]) {{ %y = matmul(%a, %b) return %y }}", t), 33));
    check_cuda_kernels(sum_case(fmt::format("graph main(%a: {0}[130,72], %b: {0}[72,264]) {{ %y = matmul(%a, %b) return %y }}", t), 72));
    check_cuda_kernels(
        sum_case(fmt::format("graph main(%a: {0}[40,130], %b: {0}[72,40]) {{ %y = matmul(%a, %b) {{trans_a=1, trans_b=1, alpha=0.5}} "
                             "return %y }}",
                             t),
                 40));
    check_cuda_kernels(sum_case(fmt::format("graph main(%a: {0}[128,768], %w: {0}[768,768]) {{ %y = matmul(%a, %w) return %y }}", t), 768));
    check_cuda_kernels(
        sum_case(fmt::format("graph main(%a: {0}[128,768], %w: {0}[384,768]) {{ %y = matmul(%a, %w) {{trans_b=1}} return %y }}", t), 768));
    // One row, one column, both; no columns of a.
    check_cuda_kernels(sum_case(fmt::format("graph main(%a: {0}[65], %b: {0}[65,70]) {{ %y = matmul(%a, %b) return %y }}", t), 65));
    check_cuda_kernels(sum_case(fmt::format("graph main(%a: {0}[3,9,65], %b: {0}[65]) {{ %y = matmul(%a, %b) return %y }}", t), 65));
    check_cuda_kernels(sum_case(fmt::format("graph main(%a: {0}[65], %b: {0}[65]) {{ %y = matmul(%a, %b) return %y }}", t), 65));
    check_cuda_kernels(sum_case(fmt::format("graph main(%a: {0}[8,0], %b: {0}[0,16]) {{ %y = matmul(%a, %b) return %y }}", t), 1));
  }
}

TEST(CudaMatmul, BatchesBroadcast) {
  for (const char* t : float_types()) {
    for (const char* shapes :
         {"%a: {0}[3,2,24,40], %b: {0}[3,2,40,16]", "%a: {0}[3,2,24,40], %b: {0}[40,16]", "%a: {0}[24,40], %b: {0}[5,40,16]",
          "%a: {0}[3,1,24,40], %b: {0}[2,40,16]", "%a: {0}[1,2,24,40], %b: {0}[3,1,40,16]", "%a: {0}[2,1,3,8,40], %b: {0}[4,3,40,16]"})
      check_cuda_kernels(
          sum_case(fmt::format("graph main({}) {{ %y = matmul(%a, %b) return %y }}", fmt::format(fmt::runtime(shapes), t)), 40));
    check_cuda_kernels(sum_case(
        fmt::format("graph main(%a: {0}[2,12,64,33], %b: {0}[2,12,64,33]) {{ %y = matmul(%a, %b) {{trans_b=1, alpha=0.125}} return %y }}",
                    t),
        33));
    check_cuda_kernels(
        sum_case(fmt::format("graph main(%a: {0}[4,64,32], %b: {0}[4,64,48]) {{ %y = matmul(%a, %b) {{trans_a=1}} return %y }}", t), 64));
  }
}

TEST(CudaMatmul, Epilogues) {
  for (const char* t : float_types()) {
    const auto check = [&](const std::string& extras, const std::string& names, const std::string& expression) {
      check_cuda_kernels(sum_case(fmt::format("graph main(%a: {0}[2,50,64], %w: {0}[64,136], {1}) {{ %y = matmul(%a, %w, {2}) "
                                              "{{epilogue=\"{3}\", epilogue_input=2}} return %y }}",
                                              t, fmt::format(fmt::runtime(extras), t), names, expression),
                                  64));
    };
    check("%c: {0}[136]", "%c", "t0 = add(i0, i1); ret t0");
    check("%c: {0}[136]", "%c", "t0 = add(i0, i1); t1 = relu(t0); ret t1");
    check("%c: {0}[136]", "%c", "t0 = add(i0, i1); t1 = gelu(t0); ret t1");
    check("%c: {0}[136]", "%c", "t0 = add(i0, i1); t1 = gelu_tanh(t0); ret t1");
    check("%c: {0}[2,50,136]", "%c", "t0 = add(i0, i1); ret t0");
    check("%c: {0}[136], %d: {0}[2,50,136]", "%c, %d", "t0 = add(i0, i1); t1 = add(t0, i2); ret t1");
    check("%c: {0}[136], %d: {0}[2,50,136]", "%c, %d", "t0 = mul(i0, i2); t1 = add(t0, i1); t2 = silu(t1); ret t2");
    check("%c: f32[136], %d: f32[1,50,1]", "%c, %d", "t0 = mul(i0, i1); t1 = add(t0, i2); ret t1");
    check("%c: f32[2,1,136]", "%c", "t0 = sub(i1, i0); ret t0");
    check("%c: f32[]", "%c", "t0 = mul(i1, i0); t1 = tanh(t0); ret t1");
  }
  // A 1x1 convolution on pixels, with its residual.
  check_cuda_kernels(
      sum_case("graph main(%a: f16[2,7,9,64], %w: f16[96,64], %c: f16[96], %d: f16[2,7,9,96]) { %y = matmul(%a, %w, %c, %d) {trans_b=1, "
               "epilogue=\"t0 = add(i0, i1); t1 = add(t0, i2); t2 = relu(t1); ret t2\", epilogue_input=2} return %y }",
               64));
  // Rows of 5: no vectors. A column: the output's last dimension is the rows of a.
  check_cuda_kernels(
      sum_case("graph main(%a: f16[9,16], %w: f16[16,5], %c: f16[5]) { %y = matmul(%a, %w, %c) {epilogue=\"t0 = add(i0, i1); ret t0\", "
               "epilogue_input=2} return %y }",
               16));
  check_cuda_kernels(
      sum_case("graph main(%a: f32[9,16], %w: f32[16], %c: f32[9]) { %y = matmul(%a, %w, %c) {epilogue=\"t0 = add(i0, i1); ret t0\", "
               "epilogue_input=2} return %y }",
               16));
}

// Odd edges of every tile, fewer steps than buffers and more, more tiles than the GPU holds at once, and epilogues. The rows of the third
// case let every tile in; it takes most of the time.
TEST(CudaMatmul, ManyRows) {
  for (const char* t : {"f16", "bf16"})
    for (const auto& [m, n, k] : std::vector<std::array<int, 3>>{{200, 136, 72}, {97, 64, 712}, {3000, 776, 328}}) {
      if (m == 3000 && std::string(t) == "bf16") continue;
      check_cuda_kernels(sum_case(
          fmt::format("graph main(%a: {0}[{1},{3}], %w: {0}[{3},{2}], %c: {0}[{2}], %d: {0}[{1},{2}]) {{ %y = matmul(%a, %w, %c, %d) "
                      "{{epilogue=\"t0 = add(i0, i1); t1 = gelu(t0); t2 = add(t1, i2); ret t2\", epilogue_input=2}} return %y }}",
                      t, m, n, k),
          k));
      if (m == 200)
        check_cuda_kernels(sum_case(fmt::format("graph main(%a: {0}[2,{1},{3}], %w: {0}[{2},{3}]) {{ %y = matmul(%a, %w) "
                                                "{{trans_b=1, alpha=0.5}} return %y }}",
                                                t, m, n, k),
                                    k));
      if (!wants_all()) return;  // compiled: sizes are arguments
    }
}

TEST(CudaMatmul, OtherTypes) {
  for (const char* t : {"f64", "i32", "i64", "i8", "u8"})
    check_cuda_kernels(
        {fmt::format("graph main(%a: {0}[2,17,20], %b: {0}[20,35]) {{ %y = matmul(%a, %b) return %y }}", t), {}, 1e-12, 1e-12});
  check_cuda_kernels(sum_case("graph main(%a: f16[40,72], %b: f32[72,24]) { %y = matmul(%a, %b) return %y }", 72));
  check_cuda_kernels(sum_case("graph main(%a: f32[40,72], %b: f16[72,24]) { %y = matmul(%a, %b) return %y }", 72));
}

TEST(CudaMatmulInteger, MatchesRef) {
  check_cuda_kernels({"graph main(%a: u8[3,33,40], %b: i8[40,65]) { %y = matmul_integer(%a, %b) return %y }"});
  check_cuda_kernels({"graph main(%a: u8[33,40], %b: u8[40,65], %c: u8[], %d: u8[65]) { %y = matmul_integer(%a, %b, %c, %d) return %y }"});
  check_cuda_kernels({"graph main(%a: i8[33,40], %b: i8[40,65], %c: i8[33], %d: i8[]) { %y = matmul_integer(%a, %b, %c, %d) return %y }"});
}

TEST(CudaMatmul, CompilesForEveryArchitecture) {
  check_cuda_kernels(
      sum_case("graph main(%a: f16[256,128], %w: f16[128,256], %c: f16[256]) { %y = matmul(%a, %w, %c) {epilogue=\"t0 = add(i0, i1); "
               "t1 = gelu(t0); ret t1\", epilogue_input=2} return %y }",
               128),
      {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"});
}

}  // namespace
}  // namespace tokamak::test
#endif
