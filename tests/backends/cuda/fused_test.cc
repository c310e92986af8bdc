#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

void check(const std::string& inputs, const std::string& attrs, const std::string& outputs = "%y", double scale = 1) {
  std::string names;
  for (size_t at = 0; (at = inputs.find('%', at)) != std::string::npos; ++at)
    names += (names.empty() ? "" : ", ") + inputs.substr(at, inputs.find(':', at) - at);
  check_cuda_kernels({.text = fmt::format("graph main({}) {{ {} = fused({}) {{{}}} return {} }}", inputs, outputs, names, attrs, outputs),
                      .inputs = {},
                      .scale = scale});
}

TEST(CudaFused, Pointwise) {
  check("%a: f32[4,33], %b: f32[33]", R"(expr="t0 = add(i0, i1); t1 = gelu(t0); ret t1", dtypes=s["f32"])");
  check("%a: f16[2,4,32], %b: f32[32], %c: f16[2,1,32]",
        R"(expr="t0 = mul(i0, i1); t1 = add(t0, i2); t2 = silu(t1); ret t2", dtypes=s["f16"])");
  check("%a: bf16[2,3,7,7], %b: bf16[3,1,1]", R"(expr="t0 = add(i0, i1); t1 = relu(t0); ret t0, t1", dtypes=s["bf16", "f32"])", "%y, %z");
  check("%a: bool[5,9], %b: i64[9], %c: f32[5,1]",
        R"(expr="t0 = add(i1, i2); t1 = where(i0, t0, -1.5); t2 = less(t1, 3); ret t1, t2", dtypes=s["f32", "bool"])", "%y, %z");
  check("%a: i32[7], %b: u8[7]", R"(expr="t0 = sub(i0, i1); ret t0", dtypes=s["f32"])");
  check("%a: f32[], %b: f32[]", R"(expr="t0 = pow(i0, 2); t1 = max(t0, i1); ret t1", dtypes=s["f32"])");
}

TEST(CudaFused, Rows) {
  const char* softmax =
      R"(expr="t0 = row_max(i0); t1 = sub(i0, t0); t2 = exp(t1); t3 = row_sum(t2); t4 = div(t2, t3); ret t4", dtypes=s["{}"])";
  for (const char* dtype : {"f32", "f16"})
    for (const char* shape : {"3,5", "2,7,64", "4,129", "3,1000", "2,4096"})
      check(fmt::format("%a: {}[{}]", dtype, shape), fmt::format(fmt::runtime(softmax), dtype));
  check("%a: f32[2,70001]", fmt::format(fmt::runtime(softmax), "f32"));
  check("%a: f32[2,70000]", fmt::format(fmt::runtime(softmax), "f32"));
}

TEST(CudaFused, RowsWithBroadcastsAndSeveralResults) {
  const char* attrs =
      R"(expr="t0 = mul(i0, i1); t1 = row_mean(t0); t2 = row_min(i0); t3 = sub(t0, t1); t4 = add(t3, i2); ret t4, t1, t2", dtypes=s["f32", "f32", "f32"], reduced=[0, 1, 1])";
  check("%a: f32[2,3,40], %b: f32[40], %c: f32[3,1]", attrs, "%y, %m, %n");
  check("%a: f32[3,37], %b: f32[], %c: f32[37]", attrs, "%y, %m, %n");
  check("%a: bf16[2,1,4,520], %b: bf16[5,1,1], %c: f32[2,1,1,520]", attrs, "%y, %m, %n");
  check("%a: f32[6,8]", R"(expr="t0 = row_max(i0); ret t0", dtypes=s["f32"], reduced=[1])");
  check("%a: f32[9,1]", R"(expr="t0 = row_sum(i0); t1 = add(t0, i0); ret t1", dtypes=s["f32"])");
  check("%a: f32[300]", R"(expr="t0 = row_sum(i0); t1 = greater(i0, t0); ret t1", dtypes=s["bool"])");
}

}  // namespace
}  // namespace tokamak::test
#endif
