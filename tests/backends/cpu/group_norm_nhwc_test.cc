#include <gtest/gtest.h>

#include <cmath>

#include "backends/cpu/cpu_backend.h"
#include "tests/backends/cpu/kernel_tester.h"

namespace tokamak::cpu {
namespace {

Tensor random_values(const Shape& shape, unsigned seed, float offset = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(offset, 2);
  Tensor t = Tensor::empty(DType::F32, shape);
  for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = normal(random);
  return t;
}

TEST(GroupNormNhwc, MatchesTheDefinition) {
  struct Case {
    Shape shape;
    int64_t groups;
  };
  for (const char* name : {"avx512.group_norm_nhwc", "avx2.group_norm_nhwc"})
    for (const Case& c : {Case{{2, 5, 7, 12}, 4}, Case{{1, 33, 17, 6}, 6}, Case{{3, 3, 40}, 1}, Case{{1, 1, 1, 8}, 2}})
      for (int threads : {1, 2}) {
        const KernelDef* def = find_kernel(name);
        ASSERT_NE(def, nullptr);
        const int64_t channels = c.shape.back(), pixels = num_elements(c.shape) / (c.shape[0] * channels), width = channels / c.groups;
        const Tensor x = random_values(c.shape, 1, 30), scale = random_values({channels}, 2), bias = random_values({channels}, 3);
        KernelTester tester(*def, {{"num_groups", c.groups}, {"layout", std::string("NHWC")}, {"epsilon", 1e-5}}, {x, scale, bias},
                            {{DType::F32, c.shape}}, threads);
        if (!tester.supported()) GTEST_SKIP() << tester.reason();
        const Tensor y = tester.run()[0];
        for (int64_t n = 0; n < c.shape[0]; ++n)
          for (int64_t g = 0; g < c.groups; ++g) {
            const auto at = [&](int64_t p, int64_t k) { return (n * pixels + p) * channels + g * width + k; };
            double mean = 0, var = 0;
            for (int64_t p = 0; p < pixels; ++p)
              for (int64_t k = 0; k < width; ++k) mean += x.data<float>()[at(p, k)] / double(pixels * width);
            for (int64_t p = 0; p < pixels; ++p)
              for (int64_t k = 0; k < width; ++k) var += std::pow(x.data<float>()[at(p, k)] - mean, 2) / double(pixels * width);
            for (int64_t p = 0; p < pixels; ++p)
              for (int64_t k = 0; k < width; ++k) {
                const int64_t channel = g * width + k;
                const double expected =
                    (x.data<float>()[at(p, k)] - mean) / std::sqrt(var + 1e-5) * scale.data<float>()[channel] + bias.data<float>()[channel];
                ASSERT_NEAR(y.data<float>()[at(p, k)], expected, 2e-4 * (1 + std::fabs(expected))) << name << " " << to_string(c.shape);
              }
          }
      }
}

TEST(GroupNormNhwc, LeavesNchwToOthers) {
  const KernelDef* def = find_kernel("avx2.group_norm_nhwc");
  KernelTester tester(*def, {{"num_groups", int64_t{2}}}, {random_values({1, 4, 3, 3}, 1), random_values({4}, 2), random_values({4}, 3)},
                      {{DType::F32, {1, 4, 3, 3}}});
  EXPECT_FALSE(tester.supported());
}

}  // namespace
}  // namespace tokamak::cpu
