#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include <cmath>

#include "tests/backends/cuda/check_kernels.h"

namespace tokamak::test {
namespace {

struct LinearCase {
  int64_t m, n, k;
  const char* x = "f16";
  const char* w = "f16";
  int64_t group = 0;
  const char* scale = "f32";
  const char* epilogue = "";  // of the accumulator i0, a bias i1 [n] and a tensor i2 [m, n]
  const char* out = "";
};

void check(const LinearCase& c, const std::vector<std::string>& archs = {}) {
  const std::string y_dtype = *c.out ? c.out : c.x;
  std::string inputs = fmt::format("%x: {}[{},{}], %w: {}[{},{}]", c.x, c.m, c.k, c.w, c.n, c.k), args = "%x, %w", attrs;
  if (c.group != 0) {
    inputs += fmt::format(", %ws: {}[{},{}]", c.scale, c.n, (c.k - 1) / c.group + 1);
    args += ", %ws";
    attrs = fmt::format("group_size={}", c.group);
  } else {
    attrs = "trans_b=1";
  }
  if (*c.out) attrs += fmt::format(", out_dtype={}", c.out);
  if (*c.epilogue) {
    inputs += fmt::format(", %bias: {}[{}], %residual: {}[{},{}]", y_dtype, c.n, y_dtype, c.m, c.n);
    args += ", %bias, %residual";
    attrs += fmt::format(", epilogue=\"{}\", epilogue_input={}", c.epilogue, c.group != 0 ? 3 : 2);
  }
  CudaCase test;
  test.text =
      fmt::format("graph main({}) {{ %y = {}({}) {{{}}} return %y }}", inputs, c.group != 0 ? "quantized_matmul" : "matmul", args, attrs);
  if (std::string(c.w) == "f8e4m3fn") test.inputs = {Tensor(), random_f8({c.n, c.k})};
  // Outputs are sums of k products: relative to their spread. Weights of 8 and 4 bits are as large as their integers.
  const double weight = c.w[0] == 'i' ? c.w[1] == '8' ? 74 : 4.6 : std::string(c.w) == "f8e4m3fn" ? 110 : 1;
  const double spread = weight * std::sqrt(static_cast<double>(c.k));
  const double rounding = y_dtype == "f32" ? 2e-6 : y_dtype == "f16" ? 1e-3 : 8e-3;
  // Scales are up to 3 or 4; kernels for many rows may round scaled weights to x's type, too.
  test.rtol = rounding, test.atol = 4 * rounding * spread;
  check_cuda_kernels(test, archs);
}

constexpr const char* kFused = "t0 = add(i0, i1); t1 = silu(t0); t2 = add(t1, i2); ret t2";

class CudaLinear : public ::testing::TestWithParam<std::tuple<const char*, int64_t>> {};

// Any number of rows, in every format of the weights; rows of another type than the weights' neighbours in the list.
TEST_P(CudaLinear, Rows) {
  const auto& [w, m] = GetParam();
  const bool is_float = std::string(w) == "f16" || std::string(w) == "bf16";
  check({m, 96, 512, is_float ? w : m % 2 ? "bf16" : "f16", w, is_float ? 0 : 128});
}
INSTANTIATE_TEST_SUITE_P(Formats, CudaLinear,
                         ::testing::Combine(::testing::Values("f16", "bf16", "i8", "i4", "f8e4m3fn"),
                                            ::testing::Values(1, 2, 3, 5, 8, 16, 17, 33, 64, 65, 130)),
                         [](const auto& info) { return fmt::format("{}_{}", std::get<0>(info.param), std::get<1>(info.param)); });

TEST(CudaLinearLayers, FloatWeights) {
  for (const char* dtype : {"f16", "bf16"}) check({7, 97, 328, dtype, dtype, 0, "f32", kFused});
  check({1, 97, 328, "f16", "f16", 0, "f32", kFused});
  check({40, 48, 256, "bf16", "bf16", 0, "f32", "", "f32"});
  check({3, 33, 77, "f16", "f16"});
  check({1, 64, 1000, "f32", "f32"});
  check({4, 64, 129, "f32", "f16", 0, "f32", kFused});
  check({4, 64, 128, "f16", "bf16"});
}

class CudaLinearGroups : public ::testing::TestWithParam<const char*> {};

TEST_P(CudaLinearGroups, OfEverySize) {
  const char* w = GetParam();
  for (int64_t group : {32, 64, 640}) check({9, 33, 640, group == 64 ? "bf16" : "f16", w, group, "f16"});
  check({70, 130, 640, "bf16", w, 64});
}
TEST_P(CudaLinearGroups, WithEpilogueAndOtherTypes) {
  const char* w = GetParam();
  check({9, 161, 352, "bf16", w, 352, "bf16", kFused});
  check({1, 161, 352, "f32", w, 32, "f16", kFused});
  check({12, 96, 256, "f32", w, 128});
}
INSTANTIATE_TEST_SUITE_P(Formats, CudaLinearGroups, ::testing::Values("i8", "i4", "f8e4m3fn"),
                         [](const auto& info) { return std::string(info.param); });

// Whole layers of a model: many blocks, sizes that do not divide.
TEST(CudaLinearLayers, LargeLayers) {
  check({1, 4096, 4096, "f16", "f16"});
  check({8, 1376, 11008, "bf16", "i4", 128, "f16", kFused});
  check({64, 1032, 4096, "f16", "i8", 4096});
}

// Their kernels at sizes that racecheck gets through.
TEST(CudaLinearLayers, SmallLayers) {
  check({1, 136, 4096, "f16", "f16"});
  check({65, 72, 1024, "f16", "i4", 128, "f16"});
  check({200, 40, 512, "bf16", "i8", 512, "f32", kFused});
}

// Slices of the dequantized weights, the last one smaller; a pass behind for an epilogue that no library has.
TEST(CudaLinearLayers, DequantizedSlices) {
  constexpr const char* kResidual = "t0 = add(i0, i1); t1 = add(t0, i2); ret t1";
  check({65, 600, 16384, "f16", "i4", 128, "f16", kResidual});
  check({200, 584, 16384, "bf16", "i8", 16384, "f32", kFused});
  check({70, 1025, 272, "f16", "f8e4m3fn", 16, "f32", kResidual});
}

TEST(CudaLinearLayers, DequantizationCompiles) {
  cuda::CodeCache code;
  for (const char* weight : {"int8_t", "i4", "f8e4m3"})
    EXPECT_NO_THROW(code.get({weight,
                              cuda::device_file("dequantize_rows.cu"),
                              {fmt::format("WEIGHT={}", weight), "ELEMENT=bf16", "SCALE_ELEMENT=f16", "K_SIZE=4096", "GROUP=128"}},
                             cuda::Target::named("sm_90")));
}

// Sizes at which the tiles of warpgroup products, their stages and the blocks that share k end unevenly.
class CudaLinearWarpgroups : public ::testing::TestWithParam<const char*> {};

TEST_P(CudaLinearWarpgroups, EveryTileOfTokens) {
  const char* w = GetParam();
  for (int64_t m : {7, 33, 200}) check({m, 200, 1056, m % 2 ? "f16" : "bf16", w, 1056, "f16", m % 3 ? "" : kFused});
  for (int64_t m : {2, 16, 256}) check({m, 1000, 2048, m % 2 ? "bf16" : "f16", w, 128, m % 2 ? "f16" : "f32", "", "f32"});
}
TEST_P(CudaLinearWarpgroups, RowsAndStagesThatEndEarly) {
  const char* w = GetParam();
  check({5, 97, 32, "f16", w, 32, "f32", kFused});
  check({16, 33, 416, "bf16", w, 416, "bf16"});
  check({64, 8, 4128, "f16", w, 4128, "f16", kFused});
  check({3, 1, 160, "bf16", w, 160});
  check({20, 72, 1120, "f16", w, 32, "bf16"});
  check({50, 264, 1216, "bf16", w, 64, "f16", kFused});
}
TEST_P(CudaLinearWarpgroups, LayersOfAModel) {
  const char* w = GetParam();
  const bool grouped = w[0] == 'i' && w[1] == '4';
  for (int64_t m : {1, 64}) check({m, 4096, 2816, "f16", w, grouped ? 128 : 2816, "f16"});
  check({8, 1000, 11008, "bf16", w, grouped ? 128 : 11008, "bf16", kFused});
}
// The kernels of the two tests above at sizes that racecheck gets through.
TEST_P(CudaLinearWarpgroups, SmallLayers) {
  const char* w = GetParam();
  const bool grouped = w[0] == 'i' && w[1] == '4';
  check({256, 72, 640, "f16", w, 128, "f32", "", "f32"});
  check({200, 40, 288, "bf16", w, 288, "f16", kFused});
  check({2, 200, 1024, "f16", w, 128, "f32", "", "f32"});
  for (int64_t m : {1, 64}) check({m, 136, 1408, "f16", w, grouped ? 128 : 1408, "f16"});
  check({8, 40, 2816, "bf16", w, grouped ? 128 : 2816, "bf16", kFused});
}
INSTANTIATE_TEST_SUITE_P(Formats, CudaLinearWarpgroups, ::testing::Values("i8", "i4", "f8e4m3fn"),
                         [](const auto& info) { return std::string(info.param); });

TEST(CudaLinearLayers, OddSizes) {
  check({1, 5, 7, "f16", "i8", 7});
  check({2, 5, 9, "f32", "i8", 3});
  check({5, 3, 14, "bf16", "i4", 14});
  check({1, 1, 1, "f16", "f16"});
  check({6, 1, 31, "f16", "f8e4m3fn", 31, "f16"});
}

TEST(CudaLinearLayers, CompilesForEveryArchitecture) {
  for (const char* arch : {"sm_80", "sm_89", "sm_90", "sm_100", "sm_120"})
    for (const char* w : {"i8", "i4", "f8e4m3fn"}) check({16, 96, 512, w[0] == 'i' ? "f16" : "bf16", w, 128}, {arch});
}

}  // namespace
}  // namespace tokamak::test
#endif
