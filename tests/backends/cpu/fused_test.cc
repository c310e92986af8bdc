#include <cmath>

#include "backends/cpu/cpu_backend.h"
#include "tests/backends/cpu/kernel_tester.h"

namespace tokamak::cpu {
namespace {

// Element of `t` at a flat index into `shape`, broadcasting.
float broadcast_at(const Tensor& t, const Shape& shape, int64_t flat) {
  int64_t offset = 0, stride = 1;
  for (int64_t d = static_cast<int64_t>(shape.size()) - 1, own = t.rank() - 1; d >= 0; --d, --own) {
    const int64_t index = flat % shape[d];
    flat /= shape[d];
    if (own < 0) continue;
    if (t.dim(own) != 1) offset += index * stride;
    stride *= t.dim(own);
  }
  return t.data<float>()[offset];
}

struct BroadcastCase {
  Shape a, b, c, out;
};

TEST(FusedKernel, BroadcastsManyDims) {
  const BroadcastCase cases[] = {
      {{2, 3, 4, 5}, {5}, {2, 1, 4, 1}, {2, 3, 4, 5}},
      {{7, 1, 300}, {1, 9, 1}, {7, 9, 300}, {7, 9, 300}},
      {{1, 58, 14, 14}, {58, 1, 1}, {1}, {1, 58, 14, 14}},
      {{128, 312}, {312}, {128, 312}, {128, 312}},
      {{2, 1, 2, 1, 2, 1, 2, 3}, {1, 3, 1, 3, 1, 3, 1, 1}, {3}, {2, 3, 2, 3, 2, 3, 2, 3}},
      {{70000}, {70000}, {1}, {70000}},
      {{1, 1}, {1, 1}, {1}, {1, 1}},
      {{0, 4}, {4}, {1}, {0, 4}},
      {{3, 30000}, {3, 1}, {30000}, {3, 30000}},
  };
  for (const char* isa : {"avx512", "avx2"})
    for (const BroadcastCase& c : cases)
      for (int threads : {1, 2}) {
        const Tensor a = random_tensor(c.a, 1), b = random_tensor(c.b, 2), d = random_tensor(c.c, 3);
        const KernelDef* def = find_kernel(std::string(isa) + ".fused");
        ASSERT_NE(def, nullptr);
        KernelTester tester(*def,
                            {{"expr", std::string("t0 = mul(i0, i1); t1 = sub(t0, i2); t2 = less(t1, 0); ret t1, t2")},
                             {"dtypes", ir::Strings{"f32", "bool"}}},
                            {a, b, d}, {{DType::F32, c.out}, {DType::Bool, c.out}}, threads);
        if (!tester.supported()) GTEST_SKIP() << tester.reason();
        const auto& out = tester.run();
        for (int64_t i = 0; i < out[0].count(); ++i) {
          const float expected = broadcast_at(a, c.out, i) * broadcast_at(b, c.out, i) - broadcast_at(d, c.out, i);
          ASSERT_NEAR(out[0].data<float>()[i], expected, 1e-6) << to_string(c.out) << " at " << i;
          ASSERT_EQ(out[1].data<uint8_t>()[i], out[0].data<float>()[i] < 0);
        }
      }
}

TEST(FusedKernel, RowReductionsAndReducedOutputs) {
  for (const char* isa : {"avx512", "avx2"}) {
    const Tensor x = random_tensor({6, 5, 31}, 4), y = random_tensor({5, 1}, 5);
    KernelTester tester(
        *find_kernel(std::string(isa) + ".fused"),
        {{"expr",
          std::string(
              "t0 = add(i0, i1); t1 = row_max(t0); t2 = sub(t0, t1); t3 = exp(t2); t4 = row_sum(t3); t5 = div(t3, t4); ret t5, t1")},
         {"reduced", ir::Ints{0, 1}}},
        {x, y}, {{DType::F32, {6, 5, 31}}, {DType::F32, {6, 5, 1}}}, 2);
    if (!tester.supported()) GTEST_SKIP() << tester.reason();
    const auto& out = tester.run();
    for (int64_t r = 0; r < 30; ++r) {
      double sum = 0;
      float top = -INFINITY;
      for (int c = 0; c < 31; ++c) top = std::max(top, x.data<float>()[r * 31 + c] + y.data<float>()[r % 5]);
      for (int c = 0; c < 31; ++c) sum += std::exp(double(x.data<float>()[r * 31 + c]) + y.data<float>()[r % 5] - top);
      EXPECT_EQ(out[1].data<float>()[r], top);
      for (int c = 0; c < 31; ++c)
        ASSERT_NEAR(out[0].data<float>()[r * 31 + c], std::exp(double(x.data<float>()[r * 31 + c]) + y.data<float>()[r % 5] - top) / sum,
                    1e-6);
    }
  }
}

TEST(PointwiseKernels, AttributesAndAliasing) {
  struct Case {
    const char* op;
    ir::Attrs attrs;
    int inputs;
    double (*f)(double, double);
  };
  const Case cases[] = {
      {"add", {}, 2, [](double a, double b) { return a + b; }},
      {"leaky_relu", {{"alpha", 0.3}}, 1, [](double a, double) { return a < 0 ? 0.3 * a : a; }},
      {"hard_sigmoid", {{"alpha", 0.25}}, 1, [](double a, double) { return std::min(1.0, std::max(0.0, 0.25 * a + 0.5)); }},
      {"clip", {{"max", 1.0}}, 1, [](double a, double) { return std::min(a, 1.0); }},
      {"clip", {}, 2, [](double a, double b) { return std::max(a, b); }},
      {"relu", {}, 1, [](double a, double) { return std::max(a, 0.0); }},
  };
  for (const char* isa : {"avx512", "avx2"})
    for (const Case& c : cases) {
      Tensor a = random_tensor({33, 41}, 8);
      const Tensor kept = a.clone(), b = random_tensor(std::string(c.op) == "clip" ? Shape{} : Shape{33, 41}, 9);
      std::vector<Tensor> inputs{a};
      if (c.inputs > 1) inputs.push_back(b);
      KernelTester tester(*find_kernel(std::string(isa) + "." + c.op), c.attrs, inputs, {{DType::F32, {33, 41}}}, 2);
      if (!tester.supported()) GTEST_SKIP() << tester.reason();
      tester.alias(0, 0);
      const auto& out = tester.run();
      for (int64_t i = 0; i < kept.count(); ++i)
        ASSERT_NEAR(out[0].data<float>()[i], c.f(kept.data<float>()[i], b.data<float>()[b.count() == 1 ? 0 : i]), 1e-6) << c.op;
    }
}

TEST(PointwiseKernels, DeclineWhatFloat32CannotHold) {
  const KernelDef* add = find_kernel("avx2.add");
  KernelTester tester(*add, {}, {Tensor::zeros(DType::I64, {3}), Tensor::zeros(DType::I64, {3})}, {{DType::I64, {3}}});
  EXPECT_FALSE(tester.supported());
  EXPECT_FALSE(tester.reason().empty());
}

}  // namespace
}  // namespace tokamak::cpu
