#include "cli/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tokamak::cli {
namespace {

Tensor floats(std::vector<float> v) {
  const Shape shape{static_cast<int64_t>(v.size())};
  return Tensor::of<float>(shape, v);
}

TEST(CliCompare, TheFormulaOfTheOnnxSuite) {
  const Tolerance t{1e-3, 1e-7};
  EXPECT_TRUE(compare_tensors(floats({1.0009f, -100.05f}), floats({1, -100}), t).same);
  const Difference d = compare_tensors(floats({1, 2.01f}), floats({1, 2}), t);
  EXPECT_FALSE(d.same);
  EXPECT_NEAR(d.max_abs_error, 0.01, 1e-5);
  EXPECT_NEAR(d.max_rel_error, 0.005, 1e-5);
  EXPECT_NE(d.message.find("element 1"), std::string::npos);
  EXPECT_FALSE(compare_tensors(floats({1e-6f}), floats({0}), t).same);
}

TEST(CliCompare, NanAndInfinity) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(compare_tensors(floats({nan, inf, -inf}), floats({nan, inf, -inf}), {}).same);
  EXPECT_FALSE(compare_tensors(floats({nan}), floats({0}), {1, 1}).same);
  EXPECT_FALSE(compare_tensors(floats({0}), floats({nan}), {1, 1}).same);
  EXPECT_FALSE(compare_tensors(floats({inf}), floats({-inf}), {1, 1}).same);
  EXPECT_FALSE(compare_tensors(floats({3e38f}), floats({inf}), {1, 1}).same);
}

TEST(CliCompare, ShapeTypeIntegersStrings) {
  EXPECT_FALSE(compare_tensors(Tensor::zeros(DType::F32, {2, 1}), Tensor::zeros(DType::F32, {2}), {}).same);
  EXPECT_FALSE(compare_tensors(Tensor::zeros(DType::F32, {2}), Tensor::zeros(DType::F64, {2}), {}).same);
  const auto big = [](int64_t v) { return Tensor::of<int64_t>({1}, {v}); };
  EXPECT_TRUE(compare_tensors(big(INT64_MAX), big(INT64_MAX), {0, 0}).same);
  EXPECT_FALSE(compare_tensors(big(INT64_MAX), big(INT64_MAX - 1), {0, 0}).same);
  EXPECT_FALSE(compare_tensors(Tensor::of<bool>({1}, {true}), Tensor::of<bool>({1}, {false}), {}).same);
  Tensor a = Tensor::empty(DType::String, {1}), b = Tensor::empty(DType::String, {1});
  a.strings()[0] = "x";
  b.strings()[0] = "x";
  EXPECT_TRUE(compare_tensors(a, b, {}).same);
  b.strings()[0] = "y";
  EXPECT_FALSE(compare_tensors(a, b, {}).same);
}

}  // namespace
}  // namespace tokamak::cli
