#include <cmath>

#include "backends/cpu/cpu_backend.h"
#include "tests/backends/cpu/kernel_tester.h"

namespace tokamak::cpu {
namespace {

const KernelDef& kernel(const char* isa, const char* op) {
  const KernelDef* def = find_kernel(std::string(isa) + "." + op);
  CHECK(def != nullptr);
  return *def;
}

struct Split {
  int64_t outer = 1, size = 1, inner = 1;
  Split(const Shape& shape, int64_t first, int64_t last) {
    for (int64_t d = 0; d < static_cast<int64_t>(shape.size()); ++d) (d < first ? outer : d <= last ? size : inner) *= shape[d];
  }
};

TEST(SoftmaxKernel, AnyAxis) {
  for (const char* isa : {"avx512", "avx2"})
    for (const char* op : {"softmax", "log_softmax"})
      for (const Shape& shape : {Shape{12, 128, 128}, Shape{3, 7, 33}, Shape{5, 1, 1}, Shape{2, 1025, 3}})
        for (int64_t axis = 0; axis < 3; ++axis) {
          const Tensor x = random_tensor(shape, 3, -30, 30);
          KernelTester tester(kernel(isa, op), {{"axis", axis}}, {x}, {{DType::F32, shape}}, 2);
          if (!tester.supported()) GTEST_SKIP() << tester.reason();
          const Tensor y = tester.run()[0];
          const Split s(shape, axis, axis);
          for (int64_t o = 0; o < s.outer; ++o)
            for (int64_t i = 0; i < s.inner; ++i) {
              const float *in = x.data<float>() + o * s.size * s.inner + i, *out = y.data<float>() + o * s.size * s.inner + i;
              double top = -1e30, total = 0;
              for (int64_t j = 0; j < s.size; ++j) top = std::max<double>(top, in[j * s.inner]);
              for (int64_t j = 0; j < s.size; ++j) total += std::exp(in[j * s.inner] - top);
              for (int64_t j = 0; j < s.size; ++j) {
                const double log_p = in[j * s.inner] - top - std::log(total);
                ASSERT_NEAR(out[j * s.inner], op[0] == 's' ? std::exp(log_p) : log_p, op[0] == 's' ? 1e-6 : 1e-5);
              }
            }
        }
}

TEST(NormKernels, LayerAndRmsWithResidual) {
  for (const char* isa : {"avx512", "avx2"})
    for (const char* op : {"layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm"})
      for (const Shape& shape : {Shape{128, 312}, Shape{3, 5, 7}, Shape{2, 1}, Shape{1, 4099}})
        for (bool affine : {true, false}) {
          const bool add = op[0] == 'a', rms = std::string(op).find("rms") != std::string::npos;
          const int64_t n = shape.back(), rows = num_elements(shape) / n;
          const Tensor x = random_tensor(shape, 1, 3, 5), r = random_tensor(shape, 2), scale = random_tensor({n}, 3),
                       bias = random_tensor({n}, 4);
          std::vector<Tensor> inputs{x};
          if (add) inputs.push_back(r);
          if (affine) inputs.push_back(scale);
          if (affine && !rms) inputs.push_back(bias);
          Shape reduced = shape;
          reduced.back() = 1;
          std::vector<OutputSpec> outputs{{DType::F32, shape}};
          if (add) outputs.push_back({DType::F32, shape});
          else if (!rms) outputs.push_back({DType::F32, reduced}), outputs.push_back({DType::F32, reduced});
          KernelTester tester(kernel(isa, op), {{"axis", int64_t{-1}}, {"epsilon", 1e-3}}, inputs, outputs, 2);
          if (!tester.supported()) GTEST_SKIP() << tester.reason();
          const auto& out = tester.run();
          for (int64_t i = 0; i < rows; ++i) {
            std::vector<double> s(n);
            double mean = 0, squares = 0;
            for (int64_t c = 0; c < n; ++c) mean += s[c] = double(x.data<float>()[i * n + c]) + (add ? r.data<float>()[i * n + c] : 0);
            mean = rms ? 0 : mean / n;
            for (int64_t c = 0; c < n; ++c) squares += (s[c] - mean) * (s[c] - mean);
            const double inv = 1 / std::sqrt(squares / n + 1e-3);
            if (!add && !rms) {
              ASSERT_NEAR(out[1].data<float>()[i], mean, 1e-5);
              ASSERT_NEAR(out[2].data<float>()[i], inv, 2e-4 * inv);
            }
            for (int64_t c = 0; c < n; ++c) {
              const double norm =
                  (s[c] - mean) * inv * (affine ? scale.data<float>()[c] : 1) + (affine && !rms ? bias.data<float>()[c] : 0);
              ASSERT_NEAR(out[0].data<float>()[i * n + c], norm, 2e-5) << op << to_string(shape);
              if (add) {
                ASSERT_NEAR(out[1].data<float>()[i * n + c], s[c], 1e-6);
              }
            }
          }
        }
}

TEST(NormKernels, Groups) {
  for (const char* isa : {"avx512", "avx2"})
    for (const char* op : {"group_norm", "instance_norm"}) {
      const Shape shape{2, 6, 5, 3};
      const Tensor x = random_tensor(shape, 1), scale = random_tensor({6}, 3), bias = random_tensor({6}, 4);
      KernelTester tester(kernel(isa, op), {{"num_groups", int64_t{2}}}, {x, scale, bias}, {{DType::F32, shape}});
      if (!tester.supported()) GTEST_SKIP() << tester.reason();
      const Tensor y = tester.run()[0];
      const int64_t channels = op[0] == 'g' ? 3 : 1, size = channels * 15;
      for (int64_t g = 0; g < x.count() / size; ++g) {
        double mean = 0, squares = 0;
        const float* p = x.data<float>() + g * size;
        for (int64_t i = 0; i < size; ++i) mean += p[i] / double(size);
        for (int64_t i = 0; i < size; ++i) squares += (p[i] - mean) * (p[i] - mean);
        for (int64_t i = 0; i < size; ++i) {
          const int64_t c = (g * size + i) / 15 % 6;
          ASSERT_NEAR(y.data<float>()[g * size + i],
                      (p[i] - mean) / std::sqrt(squares / size + 1e-5) * scale.data<float>()[c] + bias.data<float>()[c], 1e-5);
        }
      }
    }
}

TEST(ReduceKernels, LeadingMiddleTrailing) {
  const Shape shape{5, 7, 9, 37};
  const Tensor x = random_tensor(shape, 6, 0.9f, 1.1f);
  for (const char* isa : {"avx512", "avx2"})
    for (const char* op : {"reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod"})
      for (int64_t first = 0; first < 4; ++first)
        for (int64_t last = first; last < 4 && last < first + 3; ++last) {
          ir::Ints axes;
          Shape reduced = shape;
          for (int64_t d = first; d <= last; ++d) axes.push_back(d % 2 ? d : d - 4), reduced[d] = 1;
          KernelTester tester(kernel(isa, op), {{"axes", axes}}, {x}, {{DType::F32, reduced}}, 2);
          if (!tester.supported()) GTEST_SKIP() << tester.reason();
          const Tensor y = tester.run()[0];
          const Split s(shape, first, last);
          for (int64_t o = 0; o < s.outer; ++o)
            for (int64_t i = 0; i < s.inner; ++i) {
              double sum = 0, product = 1, high = -1e9, low = 1e9;
              for (int64_t j = 0; j < s.size; ++j) {
                const double v = x.data<float>()[(o * s.size + j) * s.inner + i];
                sum += v, product *= v, high = std::max(high, v), low = std::min(low, v);
              }
              const std::string name = op + 7;
              const double expected = name == "sum"    ? sum
                                      : name == "mean" ? sum / s.size
                                      : name == "max"  ? high
                                      : name == "min"  ? low
                                                       : product;
              ASSERT_NEAR(y.data<float>()[o * s.inner + i], expected, std::abs(expected) * 1e-4) << op << first << last;
            }
        }
}

TEST(ReduceKernels, NanWins) {
  for (const char* isa : {"avx512", "avx2"})
    for (int64_t at : {0, 3, 40, 99}) {
      Tensor x = random_tensor({1, 100}, 1);
      x.data<float>()[at] = NAN;
      KernelTester tester(kernel(isa, "reduce_max"), {{"axes", ir::Ints{1}}}, {x}, {{DType::F32, {1, 1}}});
      if (!tester.supported()) GTEST_SKIP() << tester.reason();
      EXPECT_TRUE(std::isnan(tester.run()[0].data<float>()[0]));
    }
}

}  // namespace
}  // namespace tokamak::cpu
