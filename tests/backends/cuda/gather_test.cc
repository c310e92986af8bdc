#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

Tensor indices(Shape shape, int64_t bound) {  // negative ones too
  const int64_t n = num_elements(shape);
  std::vector<int64_t> values;
  for (int64_t i = 0; i < n; ++i) values.push_back((i * 7 + 3) % (2 * bound) - bound);
  return Tensor::of<int64_t>(std::move(shape), values);
}
// Every index once, so that results do not depend on the order of updates.
Tensor permutation(Shape shape, int64_t bound) {
  const int64_t n = num_elements(shape);
  std::vector<int64_t> values;
  for (int64_t i = 0; i < n; ++i) values.push_back((i * 5 + 2) % bound - (i % 2) * bound);
  return Tensor::of<int64_t>(std::move(shape), values);
}

TEST(CudaGather, Gathers) {
  for (const char* dtype : {"f32", "f16", "i64", "u8"}) {
    check_cuda_kernels({.text = fmt::format("graph main(%x: {}[11,64], %i: i64[2,3]) {{ %y = gather(%x, %i) return %y }}", dtype),
                        .inputs = {{}, indices({2, 3}, 11)}});
    check_cuda_kernels({.text = fmt::format("graph main(%x: {}[3,9,5], %i: i64[4]) {{ %y = gather(%x, %i) {{axis=1}} return %y }}", dtype),
                        .inputs = {{}, indices({4}, 9)}});
    check_cuda_kernels(
        {.text = fmt::format("graph main(%x: {}[3,6], %i: i64[3,4]) {{ %y = gather_elements(%x, %i) {{axis=-1}} return %y }}", dtype),
         .inputs = {{}, indices({3, 4}, 6)}});
    check_cuda_kernels({.text = fmt::format("graph main(%x: {}[4,4,6], %i: i64[5,2]) {{ %y = gather_nd(%x, %i) return %y }}", dtype),
                        .inputs = {{}, indices({5, 2}, 4)}});
  }
  check_cuda_kernels(
      {.text = "graph main(%x: f16[1000,4096], %i: i64[700]) { %y = gather(%x, %i) return %y }", .inputs = {{}, indices({700}, 1000)}});
  check_cuda_kernels({.text = "graph main(%x: f32[7,3], %i: i64[]) { %y = gather(%x, %i) {axis=-1} return %y }",
                      .inputs = {{}, Tensor::scalar<int64_t>(-1)}});
  check_cuda_kernels({.text = "graph main(%x: f32[2,5,4], %i: i64[2,3,1]) { %y = gather_nd(%x, %i) {batch_dims=1} return %y }",
                      .inputs = {{}, indices({2, 3, 1}, 5)}});
  check_cuda_kernels({.text = "graph main(%x: f32[5,4], %i: i32[3]) { %y = gather(%x, %i) return %y }",
                      .inputs = {{}, Tensor::of<int32_t>({3}, {4, -5, 0})}});
}

TEST(CudaGather, Scatters) {
  for (const char* dtype : {"f32", "f16", "i64", "i8"}) {
    check_cuda_kernels(
        {.text = fmt::format(
             "graph main(%x: {0}[3,8], %i: i64[3,5], %u: {0}[3,5]) {{ %y = scatter_elements(%x, %i, %u) {{axis=1}} return %y }}", dtype),
         .inputs = {{}, permutation({3, 5}, 8)}});
    check_cuda_kernels(
        {.text = fmt::format("graph main(%x: {0}[8,3], %i: i64[5,1], %u: {0}[5,3]) {{ %y = scatter_nd(%x, %i, %u) return %y }}", dtype),
         .inputs = {{}, permutation({5, 1}, 8)}});
  }
  for (const char* dtype : {"f32", "bf16", "i64", "i32", "u8", "f64"})
    for (const char* reduction : {"add", "mul", "min", "max"}) {
      CudaCase c{.text = fmt::format("graph main(%x: {0}[4,6], %i: i64[4,5], %u: {0}[4,5]) {{ %y = scatter_elements(%x, %i, %u) {{axis=1, "
                                     "reduction=\"{1}\"}} return %y }}",
                                     dtype, reduction),
                 .inputs = {{}, indices({4, 5}, 6)}};
      if (std::string(dtype) == "bf16") c.rtol = c.atol = 3e-2;  // rounded after each update
      check_cuda_kernels(c);
    }
  check_cuda_kernels(
      {.text = "graph main(%x: f32[3,4,2], %i: i64[3,2], %u: f32[3,2]) { %y = scatter_nd(%x, %i, %u) {reduction=\"add\"} return %y }",
       .inputs = {{}, Tensor::of<int64_t>({3, 2}, {0, 1, 2, -1, 0, 1})}});
}

TEST(CudaGather, TensorsFromLittle) {
  for (const char* dtype : {"f32", "f16", "i64", "bool"})
    check_cuda_kernels(
        {.text = fmt::format(
             "graph main(%i: i64[2,3], %v: {}[2]) {{ %d = const i64[] {{5}} %y = onehot(%i, %d, %v) {{axis=1}} return %y }}", dtype),
         .inputs = {Tensor::of<int64_t>({2, 3}, {0, -1, 7, 4, -6, 2})}});
  check_cuda_kernels({"graph main(%i: i32[4], %v: f32[2]) { %d = const i64[] {100} %y = onehot(%i, %d, %v) return %y }"});
  check_cuda_kernels(
      {"graph main() { %a = const f32[] {0.5} %b = const f32[] {10} %c = const f32[] {0.7} %y = range(%a, %b, %c) return %y }"});
  check_cuda_kernels(
      {"graph main() { %a = const i64[] {10} %b = const i64[] {-5} %c = const i64[] {-2} %y = range(%a, %b, %c) return %y }"});
  check_cuda_kernels({"graph main() { %y = fill() {value=dense f32[1]{2.5}, shape=<3,77>} return %y }"});
  check_cuda_kernels({"graph main() { %y = fill() {value=dense i64[1]{-3}, shape=<5>} return %y }"});
  check_cuda_kernels({"graph main(%x: f32[4,6,5]) { %y = shape(%x) {start=1} return %y }"});
  check_cuda_kernels({"graph main(%x: f32[4,6,5]) { %y = size(%x) return %y }"});
  check_cuda_kernels({"graph main(%x: f32[4,6]) { %y = eye_like(%x) {k=1} return %y }"});
  check_cuda_kernels({"graph main(%x: f32[6,4]) { %y = eye_like(%x) {dtype=i64, k=-2} return %y }"});
}

}  // namespace
}  // namespace tokamak::test
#endif
