#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

void check(const std::string& type, const std::string& call) {
  check_cuda_kernels({fmt::format("graph main(%x: {}) {{ %y = {} return %y }}", type, call)});
}

TEST(CudaMovement, Transpose) {
  for (const char* dtype : {"f32", "f16", "i8", "i64"})
    for (const char* shape : {"33,70", "64,128", "5,3"}) check(fmt::format("{}[{}]", dtype, shape), "transpose(%x)");
  const char* cases[][2] = {{"2,40,50", "0,2,1"},   {"2,3,16,16", "0,2,3,1"},   {"2,16,20,24", "0,3,1,2"}, {"2,7,4,64", "0,2,1,3"},
                            {"3,4,5,6", "3,2,1,0"}, {"2,3,4,5,6", "1,0,3,4,2"}, {"1,9,1,8", "3,2,0,1"},    {"4,5,6", "0,1,2"},
                            {"12,34,10", "2,0,1"},  {"2,3,1024", "1,0,2"}};
  for (const auto& c : cases)
    for (const char* dtype : {"f32", "bf16"}) check(fmt::format("{}[{}]", dtype, c[0]), fmt::format("transpose(%x) {{perm=[{}]}}", c[1]));
}

TEST(CudaMovement, ExpandTileSlice) {
  for (const char* dtype : {"f32", "f16", "i64", "bool"}) {
    check(fmt::format("{}[3,1,8]", dtype), "expand(%x) {shape=<2,3,4,8>}");
    check(fmt::format("{}[3,5,7]", dtype), "slice(%x) {starts=<1,-2>, ends=<3,2147483647>, axes=[1,2]}");
  }
  check("f32[1]", "expand(%x) {shape=<5,7>}");
  check("f32[2,3,64]", "slice(%x) {starts=<32>, ends=<64>, axes=[-1]}");
  check("f16[5,8]", "slice(%x) {starts=<4>, ends=<-6>, axes=[0], steps=[-2]}");
  check("f32[9,10]", "slice(%x) {starts=<0,9>, ends=<9,0>, axes=[0,1], steps=[3,-4]}");
  check_cuda_kernels({"graph main(%x: f32[2,3,5]) { %r = const i64[3] {2,1,3} %y = tile(%x, %r) return %y }"});
  check_cuda_kernels({"graph main(%x: f16[2,64]) { %r = const i64[2] {3,2} %y = tile(%x, %r) return %y }"});
}

TEST(CudaMovement, ConcatAndSplit) {
  for (const char* dtype : {"f32", "f16", "u8"}) {
    check_cuda_kernels({fmt::format(
        "graph main(%a: {0}[2,3,8], %b: {0}[2,1,8], %c: {0}[2,5,8]) {{ %y = concat(%a, %b, %c) {{axis=1}} return %y }}", dtype)});
    check_cuda_kernels({fmt::format("graph main(%a: {0}[2,3,5], %b: {0}[2,3,2]) {{ %y = concat(%a, %b) {{axis=-1}} return %y }}", dtype)});
    check_cuda_kernels(
        {fmt::format("graph main(%x: {}[2,9,8]) {{ %a, %b, %c = split(%x) {{axis=1, sizes=<2,3,4>}} return %a, %b, %c }}", dtype)});
  }
  check_cuda_kernels({"graph main(%x: f32[4,10]) { %a, %b = split(%x) {axis=-1} return %a, %b }"});
  std::string inputs, names;
  for (int i = 0; i < 70; ++i) {
    inputs += fmt::format("{}%a{}: f32[3,{}]", i ? ", " : "", i, 1 + i % 4);
    names += fmt::format("{}%a{}", i ? ", " : "", i);
  }
  check_cuda_kernels({fmt::format("graph main({}) {{ %y = concat({}) {{axis=1}} return %y }}", inputs, names)});
}

TEST(CudaMovement, Pad) {
  for (const char* mode : {"constant", "reflect", "edge", "wrap"})
    for (const char* dtype : {"f32", "f16"}) {
      check(fmt::format("{}[2,3,5,6]", dtype), fmt::format("pad(%x) {{pads=[0,0,1,2,0,0,3,1], mode=\"{}\"}}", mode));
      check(fmt::format("{}[4,7]", dtype), fmt::format("pad(%x) {{pads=[3,-1,2,-2], mode=\"{}\", value=1.5}}", mode));
    }
  check("f16[3,5,8]", "pad(%x) {pads=[1,2,0,0,1,0], value=1.5}");
  check("u8[2,3,12]", "pad(%x) {pads=[0,1,0,0,1,0], mode=\"reflect\"}");
  check("i64[5,6,4]", "pad(%x) {pads=[2,1], axes=[1], value=7.0}");
  check_cuda_kernels({"graph main(%x: bf16[3,4], %v: bf16[]) { %y = pad(%x, _, %v) {pads=[1,1,0,2]} return %y }"});
}

TEST(CudaMovement, BlocksTrianglesSequences) {
  for (const char* dtype : {"f32", "f16", "i8"}) {
    check(fmt::format("{}[2,12,3,5]", dtype), "depth_to_space(%x) {blocksize=2}");
    check(fmt::format("{}[2,12,3,5]", dtype), "depth_to_space(%x) {blocksize=2, mode=\"CRD\"}");
    check(fmt::format("{}[2,3,4,6]", dtype), "space_to_depth(%x) {blocksize=2}");
    check(fmt::format("{}[2,5,7]", dtype), "trilu(%x)");
  }
  check("i64[6,5]", "trilu(%x) {upper=0}");
  for (int k : {-2, 0, 3})
    for (int upper : {0, 1})
      check_cuda_kernels(
          {fmt::format("graph main(%x: f32[2,5,6]) {{ %k = const i64[] {{{}}} %y = trilu(%x, %k) {{upper={}}} return %y }}", k, upper)});
  check_cuda_kernels({.text = "graph main(%x: f32[5,3,2], %l: i64[3]) { %y = reverse_sequence(%x, %l) return %y }",
                      .inputs = {{}, Tensor::of<int64_t>({3}, {5, 1, 3})}});
  check_cuda_kernels(
      {.text = "graph main(%x: f16[3,4,2], %l: i64[3]) { %y = reverse_sequence(%x, %l) {batch_axis=0, time_axis=1} return %y }",
       .inputs = {{}, Tensor::of<int64_t>({3}, {4, 0, 2})}});
}

}  // namespace
}  // namespace tokamak::test
#endif
