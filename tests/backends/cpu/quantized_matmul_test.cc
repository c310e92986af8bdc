// quantized_matmul's kernels: against the arithmetic they document, against `ref` within what rounding the activations may cost, and a
// row's result whatever the number of rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "backends/cpu/cpu_features.h"
#include "base/half.h"
#include "tests/backends/cpu/one_node.h"

namespace tokamak::cpu {
namespace {

using test::OneNode;
using test::random_tensor;

const char* const kKernels[] = {"amx.quantized_matmul", "avx512vnni.quantized_matmul", "avx2.quantized_matmul"};

Tensor random_weights(DType dtype, int64_t n, int64_t k, unsigned seed) {
  Tensor t = Tensor::zeros(dtype, {n, k});
  std::mt19937 random(seed);
  for (int64_t i = 0; i < t.size_bytes(); ++i) t.data<uint8_t>()[i] = static_cast<uint8_t>(random());
  return t;
}

Tensor random_scales(DType dtype, int64_t n, int64_t groups, unsigned seed) {
  Tensor t = Tensor::empty(dtype, {n, groups});
  std::mt19937 random(seed);
  for (int64_t i = 0; i < t.count(); ++i) {
    const float x = 0.001f * static_cast<float>(1 + random() % 100);
    if (dtype == DType::F32) t.data<float>()[i] = x;
    else t.data<Half>()[i] = Half(x);
  }
  return t;
}

struct Problem {
  int64_t m, k, n, group_size;
  DType weights = DType::I8, scales = DType::F32;
};

std::string to_string(const Problem& p) {
  return fmt::format("{}x{}x{} groups of {} {} scales {}", p.m, p.k, p.n, p.group_size, tokamak::to_string(p.weights),
                     tokamak::to_string(p.scales));
}

// The product with activations rounded as documented, in double; and how far from the exact product that may be.
struct Expected {
  std::vector<double> rounded, slack, bf16_slack;
};
Expected expected(const Problem& p, const Tensor& a, const Tensor& b, const Tensor& scale) {
  const std::vector<double> zeros(p.m * p.n, 0.0);
  Expected out{zeros, zeros, zeros};
  const int64_t groups = scale.dim(1);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * p.group_size, end = std::min(p.k, begin + p.group_size);
    for (int64_t i = 0; i < p.m; ++i) {
      const float* row = a.data<float>() + i * p.k;
      float most = 0;
      for (int64_t x = begin; x < end; ++x) most = std::max(most, std::fabs(row[x]));
      const float inverse = most > 0 ? 127.0f / most : 0.0f, a_scale = most / 127.0f;
      std::vector<double> q(end - begin);
      for (int64_t x = begin; x < end; ++x) q[x - begin] = std::nearbyintf(row[x] * inverse);
      for (int64_t j = 0; j < p.n; ++j) {
        double sum = 0, size = 0, terms = 0;
        for (int64_t x = begin; x < end; ++x) {
          const double w = static_cast<double>(b.int_at(j * p.k + x));
          sum += q[x - begin] * w, size += std::fabs(w), terms += std::fabs(row[x] * w);
        }
        out.bf16_slack[i * p.n + j] += 0.0079 * terms * scale.float_at(j * groups + g);  // two roundings by at most 2^-9 and 2^-8
        out.rounded[i * p.n + j] += sum * scale.float_at(j * groups + g) * a_scale;
        out.slack[i * p.n + j] += 0.501 * a_scale * size * scale.float_at(j * groups + g);
      }
    }
  }
  return out;
}

class QuantizedMatmul : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    def_ = find_kernel(GetParam());
    ASSERT_NE(def_, nullptr);
    OneNode probe({random_tensor({1, 32}, 1), random_weights(DType::I8, 1, 32, 2), random_scales(DType::F32, 1, 1, 3)}, {false, true, true},
                  {{"group_size", int64_t{32}}}, {1, 1}, 1);
    const Support support = def_->supports(probe.view());
    if (!support) GTEST_SKIP() << support.reason();
  }

  Tensor run(const Problem& p, const Tensor& a, const Tensor& b, const Tensor& scale, int threads, ir::Attrs attrs = {},
             const std::vector<Tensor>& extra = {}) const {
    attrs.set("group_size", p.group_size);
    std::vector<Tensor> inputs = {a, b, scale};
    inputs.insert(inputs.end(), extra.begin(), extra.end());
    std::vector<bool> constant(inputs.size(), false);
    constant[1] = constant[2] = true;
    OneNode node(inputs, constant, std::move(attrs), {p.m, p.n}, threads);
    EXPECT_TRUE(static_cast<bool>(def_->supports(node.view()))) << def_->supports(node.view()).reason();
    node.prepare(*def_, "");
    EXPECT_TRUE(static_cast<bool>(def_->supports(node.view()))) << "packed: " << def_->supports(node.view()).reason();
    Tensor out = node.run().clone();
    EXPECT_TRUE(node.guard_intact()) << to_string(p);
    return out;
  }

  void check(const Problem& p, int threads, unsigned seed) const {
    const Tensor a = random_tensor({p.m, p.k}, seed), b = random_weights(p.weights, p.n, p.k, seed + 1),
                 scale = random_scales(p.scales, p.n, (p.k - 1) / p.group_size + 1, seed + 2);
    const Tensor y = run(p, a, b, scale, threads);
    const Expected e = expected(p, a, b, scale);
    OneNode ref({a, b, scale}, {false, true, true}, {{"group_size", p.group_size}}, {p.m, p.n}, 1);
    ref.prepare(*find_kernel("ref.quantized_matmul"), "");
    const Tensor exact = ref.run();
    for (int64_t i = 0; i < p.m * p.n; ++i) {
      if (rounds_to_bytes(p)) {
        ASSERT_NEAR(y.data<float>()[i], e.rounded[i], 1e-3 * e.slack[i] + 1e-6) << to_string(p) << " at " << i;
      }
      const double slack = rounds_to_bytes(p) ? e.slack[i] : e.bf16_slack[i];
      ASSERT_NEAR(y.data<float>()[i], exact.data<float>()[i], slack + 1e-5) << to_string(p) << " against ref at " << i;
    }
  }

  // Whether a is rounded to bytes, as elsewhere, or to bfloat16.
  bool rounds_to_bytes(const Problem& p) const { return def_->name() != "amx.quantized_matmul" || p.m <= 32 || p.group_size >= p.k; }

  const KernelDef* def_ = nullptr;
};
INSTANTIATE_TEST_SUITE_P(Isa, QuantizedMatmul, testing::ValuesIn(kKernels),
                         [](const auto& info) { return std::string(info.param, 0, std::string_view(info.param).find('.')); });

TEST_P(QuantizedMatmul, OddShapes) {
  std::mt19937 random(5);
  const int64_t ks[] = {1, 2, 31, 32, 33, 63, 64, 65, 95, 130, 257, 512, 1030}, ns[] = {1, 5, 15, 16, 17, 33, 48, 77, 130, 200},
                groups[] = {0, 0, 32, 32, 64, 96, 128};
  for (int i = 0; i < 250; ++i) {
    Problem p;
    p.m = i < 70 ? i + 1 : static_cast<int64_t>(1 + random() % 20);
    p.k = ks[random() % std::size(ks)], p.n = ns[random() % std::size(ns)];
    p.group_size = groups[random() % std::size(groups)];
    if (p.group_size == 0) p.group_size = p.k;
    p.weights = random() % 2 ? DType::I8 : DType::I4;
    p.scales = random() % 2 ? DType::F32 : DType::F16;
    check(p, static_cast<int>(1 + random() % 3), random());
    if (HasFatalFailure()) return;
  }
}

TEST_P(QuantizedMatmul, ManyRows) {
  for (DType weights : {DType::I8, DType::I4})
    for (int64_t group : {int64_t{1300}, int64_t{32}, int64_t{64}}) {
      check({130, 1300, 330, group, weights, DType::F16}, 2, 11);
      if (HasFatalFailure()) return;
    }
}

// Sums are exact in integers and floats follow one order: alone or in a crowd, a row's bits are the same.
TEST_P(QuantizedMatmul, ARowDoesNotDependOnTheOthers) {
  for (DType weights : {DType::I8, DType::I4})
    for (int64_t rows : {32, 150})
      for (int64_t group : {int64_t{32}, int64_t{128}, int64_t{1100}}) {
        const Problem many{rows, 1100, 90, group, weights, DType::F16};
        const Tensor a = random_tensor({many.m, many.k}, 21), b = random_weights(weights, many.n, many.k, 22),
                     scale = random_scales(many.scales, many.n, (many.k - 1) / group + 1, 23);
        const Tensor all = run(many, a, b, scale, 2);
        for (int64_t count : {1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 17, 24, 32, 33, 70}) {
          Problem p = many;
          p.m = count;
          if (rounds_to_bytes(p) != rounds_to_bytes(many)) continue;
          if (count > many.m) continue;
          const int64_t first = (count * 13) % (many.m - count + 1);
          const Tensor rows = Tensor::view(DType::F32, {count, many.k}, a.data<float>() + first * many.k);
          const Tensor y = run(p, rows, b, scale, 1 + static_cast<int>(count % 2));
          ASSERT_EQ(std::memcmp(y.raw(), all.data<float>() + first * many.n, y.size_bytes()), 0) << to_string(p);
        }
      }
}

TEST_P(QuantizedMatmul, Epilogues) {
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  struct Form {
    const char* text;
    std::function<double(double x, double bias, double full)> f;
  };
  const Form forms[] = {
      {"t0 = add(i0, i1); t1 = add(t0, i2); ret t1", [](double x, double b, double r) { return x + b + r; }},
      {"t0 = add(i0, i1); t1 = silu(t0); t2 = mul(t1, i2); ret t2", [&](double x, double b, double r) { return silu(x + b) * r; }},
      {"t0 = add(i0, i1); t1 = relu(t0); t2 = add(t1, i2); ret t2", [](double x, double b, double r) { return std::max(x + b, 0.0) + r; }},
      {"t0 = add(i0, i2); t1 = silu(t0); t2 = add(t1, i1); ret t2", [&](double x, double b, double r) { return silu(x + r) + b; }},
  };
  for (const Form& form : forms)
    for (DType weights : {DType::I8, DType::I4})
      for (int64_t m : {1, 3, 12, 40, 130})
        for (int threads : {1, 2}) {
          const Problem p{m, 200, 75, weights == DType::I8 ? 200 : 64, weights, DType::F32};
          const Tensor a = random_tensor({p.m, p.k}, 31), b = random_weights(weights, p.n, p.k, 32),
                       scale = random_scales(p.scales, p.n, (p.k - 1) / p.group_size + 1, 33), bias = random_tensor({p.n}, 34),
                       full = random_tensor({p.m, p.n}, 35);
          const Tensor y =
              run(p, a, b, scale, threads, {{"epilogue", std::string(form.text)}, {"epilogue_input", int64_t{3}}}, {bias, full});
          const Expected e = expected(p, a, b, scale);
          for (int64_t i = 0; i < p.m * p.n; ++i) {
            const double wanted = form.f(e.rounded[i], bias.data<float>()[i % p.n], full.data<float>()[i]);
            ASSERT_NEAR(y.data<float>()[i], wanted,
                        (rounds_to_bytes(p) ? 5e-3 * e.slack[i] : 1.2 * (e.slack[i] + e.bf16_slack[i])) + 1e-4 + 1e-5 * std::fabs(wanted))
                << form.text << " " << to_string(p) << " at " << i;
          }
        }
}

// Row reductions see whole rows; the leading axes of a are rows.
TEST_P(QuantizedMatmul, RowReductionsAndLeadingAxes) {
  const Tensor a = random_tensor({2, 3, 64}, 41), b = random_weights(DType::I4, 300, 64, 42), scale = random_scales(DType::F16, 300, 2, 43);
  OneNode plain({a, b, scale}, {false, true, true}, {{"group_size", int64_t{32}}}, {2, 3, 300}, 2);
  plain.prepare(*def_, "");
  const Tensor x = plain.run().clone();
  OneNode node({a, b, scale}, {false, true, true},
               {{"group_size", int64_t{32}},
                {"epilogue", std::string("t0 = row_max(i0); t1 = sub(i0, t0); ret t1")},
                {"epilogue_input", int64_t{3}}},
               {2, 3, 300}, 2);
  node.prepare(*def_, "");
  const Tensor y = node.run();
  for (int64_t r = 0; r < 6; ++r) {
    const float* row = x.data<float>() + r * 300;
    const float high = *std::max_element(row, row + 300);
    for (int64_t j = 0; j < 300; ++j) ASSERT_EQ(y.data<float>()[r * 300 + j], row[j] - high);
  }
}

// Zeros stay zeros; infinities and NaN are not lost.
TEST_P(QuantizedMatmul, UnusualActivations) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (DType weights : {DType::I8, DType::I4})
    for (int64_t m : {1, 40}) {
      Tensor a = Tensor::zeros(DType::F32, {m, 96});
      if (m > 1) a.data<float>()[96 + 5] = inf, a.data<float>()[2 * 96 + 50] = nan, a.data<float>()[3 * 96] = 1e-38f;
      const Tensor b = random_weights(weights, 20, 96, 52), scale = random_scales(DType::F32, 20, 3, 53);
      const Tensor y = run({m, 96, 20, 32, weights, DType::F32}, a, b, scale, 1);
      for (int64_t i = 0; i < m * 20; ++i) {
        if (i / 20 == 1 || i / 20 == 2) EXPECT_FALSE(std::isfinite(y.data<float>()[i])) << i;
        else EXPECT_NEAR(y.data<float>()[i], 0, 1e-30) << i;
      }
    }
}

// A stranger's engine may name the layouts and lie about sizes.
TEST_P(QuantizedMatmul, PackedConstantsOfWrongSize) {
  const Tensor a = random_tensor({2, 64}, 61), b = random_weights(DType::I4, 40, 64, 62), scale = random_scales(DType::F16, 40, 2, 63);
  const auto outcome = [&](const Tensor& weights, const Tensor& scales) -> std::string {
    OneNode node({a, weights, scales}, {false, true, true}, {{"group_size", int64_t{32}}}, {2, 40}, 1);
    if (const Support can = def_->supports(node.view()); !can) return can.reason();
    try {
      def_->make(node.view(), "");
      return "made";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::Corrupt);
      return "corrupt";
    }
  };
  const auto packed = [](const Tensor& t, const char* layout, int64_t bytes) {
    return Tensor::packed(t.dtype(), t.shape(), layout, bytes);
  };
  const Tensor good_b = packed(b, "q4.n16k64", 3 * 512), good_scale = packed(scale, "scale.n16", 3 * 2 * 16 * 2);
  EXPECT_EQ(outcome(good_b, good_scale), "made");
  EXPECT_EQ(outcome(packed(b, "q4.n16k64", 3 * 512 - 64), good_scale), "corrupt");
  EXPECT_EQ(outcome(good_b, packed(scale, "scale.n16", 64)), "corrupt");
  EXPECT_EQ(outcome(good_b, scale), "corrupt") << "a dense scale beside packed weights";
  EXPECT_EQ(outcome(b, good_scale), "corrupt");
  EXPECT_EQ(outcome(packed(b, "q8.n16k64", 3 * 1024), good_scale), "input 1 is packed as q8.n16k64");
  EXPECT_EQ(outcome(good_b, packed(scale, "q4.n16k64", 3 * 512)), "input 2 is packed as q4.n16k64");
  EXPECT_TRUE(def_->reads_layout("q4.n16k64") && def_->reads_layout("scale.n16") && !def_->reads_layout("gemm.nr64"));
}

TEST_P(QuantizedMatmul, SaysWhyNot) {
  const Tensor a = random_tensor({2, 64}, 61), b = random_weights(DType::I8, 40, 64, 62);
  OneNode odd({a, b, random_scales(DType::F16, 40, 4, 63)}, {false, true, true}, {{"group_size", int64_t{20}}}, {2, 40}, 1);
  EXPECT_EQ(def_->supports(odd.view()).reason(), "groups of 20, needs a multiple of 32 or one group");
  OneNode variable({a, b, random_scales(DType::F16, 40, 1, 63)}, {false, false, true}, {{"group_size", int64_t{64}}}, {2, 40}, 1);
  EXPECT_EQ(def_->supports(variable.view()).reason(), "b is not a constant");
}

}  // namespace
}  // namespace tokamak::cpu
