// The matmul kernels against a loop in double precision: fresh random inputs, poisoned outputs and workspace, odd shapes, both instruction
// sets.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "base/half.h"
#include "ir/graph.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {
namespace {

Tensor random_tensor(Shape shape, std::mt19937& rng) {
  Tensor t = Tensor::empty(DType::F32, std::move(shape));
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = uniform(rng);
  return t;
}

struct Case {
  Shape a, b, out;
  ir::Attrs attrs;
  bool constant_b = true;
  std::vector<Tensor> extra;
  // What the epilogue does to x in (row, col) of output element i; null: nothing.
  std::function<double(double x, int64_t i, int64_t col)> after;
};

// Index of the matrix that output matrix `item` uses, by broadcasting.
int64_t matrix_of(int64_t item, const Shape& out_batch, const Shape& batch) {
  int64_t index = 0, stride = 1;
  for (size_t i = 0; i < out_batch.size(); ++i) {
    const int64_t at = item % out_batch[out_batch.size() - 1 - i];
    item /= out_batch[out_batch.size() - 1 - i];
    if (i < batch.size()) {
      const int64_t d = batch[batch.size() - 1 - i];
      index += (d == 1 ? 0 : at) * stride;
      stride *= d;
    }
  }
  return index;
}

void check(const char* kernel_name, Case c, int threads, const std::string& tactic = "", uint32_t seed = 1) {
  const KernelDef* def = find_kernel(kernel_name);
  ASSERT_NE(def, nullptr) << kernel_name;
  std::mt19937 rng(seed);
  const Tensor a = random_tensor(c.a, rng), b = random_tensor(c.b, rng);

  ir::Graph graph;
  std::vector<Tensor> tensors = {a, b};
  tensors.insert(tensors.end(), c.extra.begin(), c.extra.end());
  std::vector<ir::Value*> values;
  for (const Tensor& t : tensors) values.push_back(graph.add_input("x" + std::to_string(values.size()), ir::TensorType::of(t)));
  ir::Node* node = graph.add_node("matmul", values, c.attrs);

  NodeView view;
  view.node = node;
  view.num_threads = threads;
  for (const Tensor& t : tensors) {
    view.input_dtypes.push_back(t.dtype());
    view.input_shapes.push_back(t.shape());
    view.constants.push_back(nullptr);
  }
  view.output_dtypes = {DType::F32};
  view.output_shapes = {c.out};
  Tensor packed;
  if (c.constant_b) {
    view.constants[1] = &b;
    packed = def->pack(view, tactic, 1);
    ASSERT_TRUE(packed.defined());
    view.constants[1] = &packed;
    tensors[1] = packed;
    EXPECT_FALSE(def->pack(view, tactic, 1).defined()) << "packing is idempotent";
  }
  const Support support = def->supports(view);
  if (!support && !cpu_features().avx512) GTEST_SKIP() << support.reason();
  ASSERT_TRUE(static_cast<bool>(support)) << support.reason();
  const auto kernel = def->make(view, tactic);

  Tensor out = Tensor::empty(DType::F32, c.out);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int64_t i = 0; i < out.count(); ++i) out.data<float>()[i] = nan;
  const int64_t bytes = kernel->workspace_bytes();
  Tensor workspace = Tensor::empty(DType::F32, {bytes / 4 + 1});
  for (int64_t i = 0; i < workspace.count(); ++i) workspace.data<float>()[i] = nan;
  const float guard = 12345.0f;
  workspace.data<float>()[bytes / 4] = guard;
  ThreadPool pool(threads);
  RunArgs args{tensors, {&out, 1}, workspace.raw(), &pool};
  kernel->run(args);
  EXPECT_EQ(workspace.data<float>()[bytes / 4], guard);

  const bool row = c.a.size() == 1, column = c.b.size() == 1;
  const bool ta = !row && c.attrs.get_bool("trans_a", false), tb = !column && c.attrs.get_bool("trans_b", false);
  const double alpha = c.attrs.get_float("alpha", 1.0);
  const int64_t k = c.a[c.a.size() - (ta ? 2 : 1)], m = row ? 1 : c.a[c.a.size() - (ta ? 1 : 2)],
                n = column ? 1 : c.b[c.b.size() - (tb ? 2 : 1)];
  const Shape batch(c.out.begin(), c.out.end() - !row - !column), a_batch(c.a.begin(), c.a.end() - (row ? 1 : 2)),
      b_batch(c.b.begin(), c.b.end() - (column ? 1 : 2));
  for (int64_t i = 0; i < out.count(); ++i) {
    const int64_t item = i / (m * n), r = i / n % m, col = i % n;
    const float* am = a.data<float>() + matrix_of(item, batch, a_batch) * m * k;
    const float* bm = b.data<float>() + matrix_of(item, batch, b_batch) * k * n;
    double sum = 0, size = 0;
    for (int64_t x = 0; x < k; ++x) {
      const double term = double{ta ? am[x * m + r] : am[r * k + x]} * double{tb ? bm[col * k + x] : bm[x * n + col]};
      sum += term, size += std::fabs(term);
    }
    sum *= alpha, size = size * std::fabs(alpha) + 4;
    const double expected = c.after ? c.after(sum, i, col) : sum;
    ASSERT_NEAR(out.data<float>()[i], expected, 4e-7 * size * 4 + 1e-6) << kernel_name << " a " << to_string(c.a) << " b " << to_string(c.b)
                                                                        << " tactic " << tactic << " threads " << threads << " at " << i;
  }
}

class Matmul : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Isa, Matmul, testing::Values("avx512.matmul", "avx2.matmul"),
                         [](const auto& info) { return std::string(info.param, 0, std::string_view(info.param).find('.')); });

TEST_P(Matmul, OddShapes) {
  std::mt19937 rng(7);
  const int64_t sizes[] = {1, 2, 5, 7, 13, 15, 16, 17, 31, 33, 48, 65, 100, 129};
  const auto pick = [&] { return sizes[rng() % std::size(sizes)]; };
  for (int i = 0; i < 120; ++i) {
    const int64_t m = pick(), n = pick(), k = pick();
    const char* tactics[] = {"", "nr64", "nr32", "nr48", "nr16"};
    Case c{{m, k}, {k, n}, {m, n}};
    c.constant_b = i % 3 != 0;
    if (rng() % 2) c.b = {n, k}, c.attrs.set("trans_b", int64_t{1});
    if (rng() % 4 == 0) c.a = {k, m}, c.attrs.set("trans_a", int64_t{1});
    if (rng() % 3 == 0) c.attrs.set("alpha", 0.125);
    check(GetParam(), c, 1 + i % 2, tactics[rng() % 5], i);
  }
}

TEST_P(Matmul, EveryTileHeight) {
  for (int64_t m = 1; m <= 30; ++m)
    for (const char* tactic : {"nr64", "nr48", "nr32", "nr16"}) check(GetParam(), Case{{m, 19}, {19, 77}, {m, 77}}, 1, tactic);
  for (int64_t m = 1; m <= 30; ++m) {
    Case c{{m, 19}, {19, 77}, {m, 77}};
    c.constant_b = false;
    check(GetParam(), c, 1);
  }
}

TEST_P(Matmul, BlocksOfK) {
  for (int threads : {1, 2}) {
    check(GetParam(), Case{{40, 5000}, {5000, 70}, {40, 70}}, threads);
    check(GetParam(), Case{{700, 300}, {300, 20}, {700, 20}}, threads);
    check(GetParam(), Case{{1, 3000}, {3000, 130}, {1, 130}}, threads);
  }
}

TEST_P(Matmul, BatchesAndVectors) {
  for (bool constant : {false, true})
    for (int threads : {1, 2}) {
      std::vector<Case> cases = {
          {{3, 5, 7}, {7, 9}, {3, 5, 9}},
          {{2, 3, 20, 7}, {2, 3, 7, 9}, {2, 3, 20, 9}},
          {{2, 1, 20, 7}, {3, 7, 9}, {2, 3, 20, 9}},
          {{20, 7}, {4, 7, 33}, {4, 20, 33}},
          {{1, 20, 7}, {4, 1, 7, 33}, {4, 1, 20, 33}},
          {{7}, {7, 9}, {9}},
          {{7}, {4, 7, 9}, {4, 9}},
          {{5, 7}, {7}, {5}},
          {{3, 5, 7}, {7}, {3, 5}},
          {{7}, {7}, {}},
          {{3, 7, 20}, {3, 9, 7}, {3, 20, 9}, {{"trans_a", int64_t{1}}, {"trans_b", int64_t{1}}}},
          {{2, 7, 20}, {1, 9, 7}, {2, 20, 9}, {{"trans_a", int64_t{1}}, {"trans_b", int64_t{1}}, {"alpha", 0.5}}},
          {{0, 7}, {7, 9}, {0, 9}},
          {{6, 0}, {0, 9}, {6, 9}},
      };
      for (Case& c : cases) {
        c.constant_b = constant;
        check(GetParam(), c, threads);
      }
    }
}

double gelu(double x) { return 0.5 * x * std::erfc(-x * std::sqrt(0.5)); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST_P(Matmul, Epilogues) {
  struct Function {
    const char* text;
    double (*f)(double);
  };
  const Function functions[] = {
      {"ret t0", [](double x) { return x; }},
      {"t1 = relu(t0); ret t1", [](double x) { return std::max(x, 0.0); }},
      {"t1 = clip(t0, 0, 6); ret t1", [](double x) { return std::clamp(x, 0.0, 6.0); }},
      {"t1 = gelu(t0); ret t1", gelu},
      {"t1 = gelu_tanh(t0); ret t1", [](double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }},
      {"t1 = silu(t0); ret t1", [](double x) { return x * sigmoid(x); }},
      {"t1 = sigmoid(t0); ret t1", sigmoid},
      {"t1 = tanh(t0); ret t1", [](double x) { return std::tanh(x); }},
      {"t1 = hard_swish(t0); ret t1", [](double x) { return x * std::clamp(x / 6 + 0.5, 0.0, 1.0); }},
      {"t1 = mul(t0, 2.5); t2 = abs(t1); ret t2", [](double x) { return std::fabs(2.5 * x); }},  // no simple form
  };
  std::mt19937 rng(3);
  for (const Function& function : functions)
    for (const auto& [m, k, n] : {std::tuple<int64_t, int64_t, int64_t>{19, 24, 70}, {3, 30, 37}, {20, 4000, 50}}) {
      const Tensor bias = random_tensor({n}, rng);
      Case c{{m, k}, {k, n}, {m, n}};
      c.attrs.set("epilogue", std::string("t0 = add(i0, i1); ") + function.text);
      c.attrs.set("epilogue_input", int64_t{2});
      c.attrs.set("alpha", k > 1000 ? 0.01 : 1.0);
      c.extra = {bias};
      c.after = [&](double x, int64_t, int64_t col) { return function.f(x + bias.data<float>()[col]); };
      for (int threads : {1, 2}) check(GetParam(), c, threads);
    }
}

TEST_P(Matmul, ResidualBeforeAndAfter) {
  std::mt19937 rng(4);
  const Tensor bias = random_tensor({45}, rng), residual = random_tensor({2, 11, 45}, rng);
  for (const char* activation : {"relu", "gelu"})
    for (bool after : {false, true})
      for (bool constant : {false, true}) {
        const auto f = [&](double x) { return activation[0] == 'r' ? std::max(x, 0.0) : gelu(x); };
        Case c{{2, 11, 30}, {30, 45}, {2, 11, 45}};
        c.constant_b = constant;
        c.attrs.set("epilogue", after ? fmt::format("t0 = add(i0, i1); t1 = {}(t0); t2 = add(t1, i2); ret t2", activation)
                                      : fmt::format("t0 = add(i0, i1); t1 = add(t0, i2); t2 = {}(t1); ret t2", activation));
        c.extra = {bias, residual};
        c.after = [&](double x, int64_t i, int64_t col) {
          const double y = x + bias.data<float>()[col], r = residual.data<float>()[i];
          return after ? f(y) + r : f(y + r);
        };
        check(GetParam(), c, 2);
      }
}

TEST_P(Matmul, BroadcastEpilogueInputs) {
  std::mt19937 rng(5);
  const int64_t B = 3, M = 21, N = 70;
  struct Input {
    Shape shape;
    std::function<int64_t(int64_t b, int64_t m, int64_t n)> at;
  };
  const Input inputs[] = {
      {{B, 1, N}, [=](int64_t b, int64_t, int64_t n) { return b * N + n; }},
      {{M, 1}, [=](int64_t, int64_t m, int64_t) { return m; }},
      {{B, M, 1}, [=](int64_t b, int64_t m, int64_t) { return b * M + m; }},
      {{M, N}, [=](int64_t, int64_t m, int64_t n) { return m * N + n; }},
      {{B, 1, 1}, [=](int64_t b, int64_t, int64_t) { return b; }},
      {{}, [=](int64_t, int64_t, int64_t) { return 0; }},
      {{B, M, N}, [=](int64_t b, int64_t m, int64_t n) { return (b * M + m) * N + n; }},
  };
  for (const Input& input : inputs)
    for (bool batched_b : {false, true}) {
      const Tensor x = random_tensor(input.shape, rng);
      Case c{{B, M, 8}, batched_b ? Shape{B, 8, N} : Shape{8, N}, {B, M, N}};
      c.attrs.set("epilogue", std::string("t0 = mul(i0, i1); ret t0"));
      c.extra = {x};
      c.after = [&](double y, int64_t i, int64_t n) { return y * x.data<float>()[input.at(i / (M * N), i / N % M, n)]; };
      check(GetParam(), c, 2);
    }
  // One row an item.
  const Tensor scale = random_tensor({B, 1, 1}, rng);
  Case c{{B, 1, 8}, {8, N}, {B, 1, N}};
  c.attrs.set("epilogue", std::string("t0 = mul(i0, i1); ret t0"));
  c.extra = {scale};
  c.after = [&](double y, int64_t i, int64_t) { return y * scale.data<float>()[i / N]; };
  check(GetParam(), c, 2);
}

TEST_P(Matmul, RowReductionSeesWholeRows) {
  Case c{{50, 8}, {8, 200}, {50, 200}};
  c.attrs.set("epilogue", std::string("t0 = row_max(i0); t1 = sub(i0, t0); t2 = row_max(t1); ret t2"));
  c.after = [](double, int64_t, int64_t) { return 0.0; };
  check(GetParam(), c, 2);
}

TEST_P(Matmul, SaysWhyNot) {
  const KernelDef* def = find_kernel(GetParam());
  ir::Graph graph;
  ir::Value* a = graph.add_input("a", ir::TensorType(DType::F64, {2, 3}));
  ir::Value* b = graph.add_input("b", ir::TensorType(DType::F64, {3, 4}));
  NodeView view;
  view.node = graph.add_node("matmul", {a, b});
  view.input_dtypes = {DType::F64, DType::F64};
  view.input_shapes = {{2, 3}, {3, 4}};
  view.constants = {nullptr, nullptr};
  view.output_dtypes = {DType::F64};
  view.output_shapes = {{2, 4}};
  const std::string reason = def->supports(view).reason();
  if (reason.starts_with("needs a CPU")) GTEST_SKIP() << reason;
  EXPECT_EQ(reason, "a is f64, needs f32");
}

// Weights in bfloat16, a rounded to it: exact products, f32 sums.
class MatmulBf16 : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!cpu_features().avx512_bf16) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
    if (GetParam() == std::string("amx.matmul") && !cpu_features().amx_bf16) GTEST_SKIP() << "this CPU has no AMX BF16";
  }
};
INSTANTIATE_TEST_SUITE_P(Isa, MatmulBf16, testing::Values("avx512bf16.matmul", "amx.matmul"),
                         [](const auto& info) { return std::string(info.param, 0, std::string_view(info.param).find('.')); });

TEST_P(MatmulBf16, OddShapes) {
  const KernelDef* def = find_kernel(GetParam());
  ASSERT_NE(def, nullptr);
  std::mt19937 rng(9);
  for (int64_t m : {1, 5, 6, 17, 40})
    for (int64_t k : {1, 2, 31, 32, 33, 64, 95, 3001})
      for (int64_t n : {1, 17, 64, 77})
        for (bool trans_b : {false, true}) {
          const int threads = static_cast<int>(1 + rng() % 2);
          const Tensor a = random_tensor({m, k}, rng), bf = random_tensor(trans_b ? Shape{n, k} : Shape{k, n}, rng),
                       bias = random_tensor({n}, rng);
          Tensor b = Tensor::empty(DType::BF16, bf.shape());
          for (int64_t i = 0; i < b.count(); ++i) b.data<BFloat16>()[i] = BFloat16(bf.data<float>()[i]);
          ir::Graph graph;
          NodeView view;
          view.node = graph.add_node("matmul",
                                     {graph.add_input("a", ir::TensorType::of(a)), graph.add_input("b", ir::TensorType::of(b)),
                                      graph.add_input("bias", ir::TensorType::of(bias))},
                                     {{"trans_b", int64_t{trans_b}}, {"epilogue", std::string("t0 = add(i0, i1); ret t0")}});
          view.num_threads = threads;
          view.input_dtypes = {DType::F32, DType::BF16, DType::F32};
          view.input_shapes = {a.shape(), b.shape(), bias.shape()};
          view.constants = {nullptr, &b, nullptr};
          view.output_dtypes = {DType::F32};
          view.output_shapes = {{m, n}};
          const std::string tactic = rng() % 2 ? "nr64" : "nr32";
          const Tensor packed = def->pack(view, tactic, 1);
          view.constants[1] = &packed;
          ASSERT_TRUE(static_cast<bool>(def->supports(view))) << def->supports(view).reason();
          const auto kernel = def->make(view, tactic);
          Tensor out = Tensor::empty(DType::F32, {m, n}), workspace = Tensor::empty(DType::F32, {kernel->workspace_bytes() / 4});
          for (Tensor* t : {&out, &workspace})
            for (int64_t i = 0; i < t->count(); ++i) t->data<float>()[i] = std::numeric_limits<float>::quiet_NaN();
          const Tensor inputs[] = {a, packed, bias};
          ThreadPool pool(threads);
          kernel->run(RunArgs{inputs, {&out, 1}, workspace.raw(), &pool});
          for (int64_t i = 0; i < m * n; ++i) {
            double sum = bias.data<float>()[i % n], size = 1;
            for (int64_t x = 0; x < k; ++x) {
              const double term = double{float(BFloat16(a.data<float>()[i / n * k + x]))} *
                                  double{float(b.data<BFloat16>()[trans_b ? i % n * k + x : x * n + i % n])};
              sum += term, size += std::fabs(term);
            }
            ASSERT_NEAR(out.data<float>()[i], sum, 1e-6 * size) << m << "x" << k << "x" << n << " at " << i;
          }
        }
}

// Batches of b, a transposed, alpha, and each way an epilogue is applied.
TEST_P(MatmulBf16, BatchesAndEpilogues) {
  const KernelDef* def = find_kernel(GetParam());
  ASSERT_NE(def, nullptr);
  std::mt19937 rng(10);
  const char* const epilogues[] = {"t0 = add(i0, i1); t1 = gelu(t0); t2 = add(t1, i2); ret t2",
                                   "t0 = add(i0, i1); t1 = add(t0, i2); t2 = relu(t1); ret t2",
                                   "t0 = add(i0, i1); t1 = add(t0, i2); t2 = abs(t1); ret t2",
                                   "t0 = add(i0, i1); t1 = add(t0, i2); t2 = row_max(t1); t3 = sub(t1, t2); ret t3"};
  const int64_t k = 70, n = 75;
  for (size_t e = 0; e < std::size(epilogues); ++e)
    for (int64_t batch : {1, 3})
      for (int64_t m : {1, 17, 150})
        for (int threads : {1, 3}) {
          const bool trans_a = m == 17;
          const Tensor a = random_tensor(trans_a ? Shape{batch, k, m} : Shape{batch, m, k}, rng), bf = random_tensor({batch, k, n}, rng),
                       bias = random_tensor({n}, rng), residual = random_tensor({batch, m, n}, rng);
          Tensor b = Tensor::empty(DType::BF16, bf.shape());
          for (int64_t i = 0; i < b.count(); ++i) b.data<BFloat16>()[i] = BFloat16(bf.data<float>()[i]);
          ir::Graph graph;
          NodeView view;
          view.node =
              graph.add_node("matmul",
                             {graph.add_input("a", ir::TensorType::of(a)), graph.add_input("b", ir::TensorType::of(b)),
                              graph.add_input("bias", ir::TensorType::of(bias)), graph.add_input("residual", ir::TensorType::of(residual))},
                             {{"trans_a", int64_t{trans_a}}, {"alpha", 0.5}, {"epilogue", std::string(epilogues[e])}});
          view.num_threads = threads;
          view.input_dtypes = {DType::F32, DType::BF16, DType::F32, DType::F32};
          view.input_shapes = {a.shape(), b.shape(), bias.shape(), residual.shape()};
          view.constants = {nullptr, &b, nullptr, nullptr};
          view.output_dtypes = {DType::F32};
          view.output_shapes = {{batch, m, n}};
          const Tensor packed = def->pack(view, "", 1);
          view.constants[1] = &packed;
          ASSERT_TRUE(static_cast<bool>(def->supports(view))) << def->supports(view).reason();
          const auto kernel = def->make(view, "");
          Tensor out = Tensor::empty(DType::F32, {batch, m, n}),
                 workspace = Tensor::empty(DType::F32, {kernel->workspace_bytes() / 4 + 16});
          for (Tensor* t : {&out, &workspace})
            for (int64_t i = 0; i < t->count(); ++i) t->data<float>()[i] = std::numeric_limits<float>::quiet_NaN();
          for (int64_t i = 1; i <= 16; ++i) workspace.data<float>()[workspace.count() - i] = 12345.0f;
          const Tensor inputs[] = {a, packed, bias, residual};
          ThreadPool pool(threads);
          kernel->run(RunArgs{inputs, {&out, 1}, workspace.raw(), &pool});
          for (int64_t i = 1; i <= 16; ++i) ASSERT_EQ(workspace.data<float>()[workspace.count() - i], 12345.0f);
          std::vector<double> x(batch * m * n);
          for (int64_t i = 0; i < batch * m * n; ++i) {
            const int64_t item = i / (m * n), r = i / n % m, c = i % n;
            double sum = 0;
            for (int64_t j = 0; j < k; ++j)
              sum += double{float(BFloat16(a.data<float>()[trans_a ? (item * k + j) * m + r : (item * m + r) * k + j]))} *
                     double{float(b.data<BFloat16>()[(item * k + j) * n + c])};
            x[i] = 0.5 * sum + bias.data<float>()[c];
          }
          for (int64_t i = 0; i < batch * m * n; ++i) {
            const auto before = [&](int64_t at) { return x[at] + residual.data<float>()[at]; };
            double expected = before(i);
            if (e == 0) expected = gelu(x[i]) + residual.data<float>()[i];
            if (e == 1) expected = std::max(before(i), 0.0);
            if (e == 2) expected = std::fabs(before(i));
            if (e == 3) {
              double high = before(i / n * n);
              for (int64_t c = 1; c < n; ++c) high = std::max(high, before(i / n * n + c));
              expected -= high;
            }
            ASSERT_NEAR(out.data<float>()[i], expected, 4e-5)
                << epilogues[e] << " batch " << batch << " m " << m << " threads " << threads << " at " << i;
          }
        }
}

// K is added in one order however many rows there are: a row's bits do not depend on the others.
TEST(Matmul, ARowDoesNotDependOnTheOthers) {
  for (const char* name : {"avx512.matmul", "avx2.matmul", "amx.matmul"}) {
    const KernelDef* def = find_kernel(name);
    ASSERT_NE(def, nullptr);
    const bool bf16 = def->name() == "amx.matmul";
    if (bf16 && !(cpu_features().amx_bf16 && cpu_features().avx512_bf16)) continue;
    if (!bf16 && !(name[3] == '5' ? cpu_features().avx512 : cpu_features().avx2)) continue;
    std::mt19937 rng(12);
    const int64_t total = 300, k = 3000, n = 90;
    const Tensor a = random_tensor({total, k}, rng), bf = random_tensor({n, k}, rng);
    Tensor b = bf;
    if (bf16) {
      b = Tensor::empty(DType::BF16, {n, k});
      for (int64_t i = 0; i < b.count(); ++i) b.data<BFloat16>()[i] = BFloat16(bf.data<float>()[i]);
    }
    Tensor all;
    for (int64_t m : {total, int64_t{1}, int64_t{2}, int64_t{7}, int64_t{16}, int64_t{17}, int64_t{32}, int64_t{33}, int64_t{100}}) {
      const int64_t first = (total - m) / 2;
      const Tensor rows = Tensor::view(DType::F32, {m, k}, a.data<float>() + first * k);
      ir::Graph graph;
      NodeView view;
      view.node = graph.add_node("matmul", {graph.add_input("a", ir::TensorType::of(rows)), graph.add_input("b", ir::TensorType::of(b))},
                                 {{"trans_b", int64_t{1}}});
      view.num_threads = 2;
      view.input_dtypes = {DType::F32, b.dtype()};
      view.input_shapes = {rows.shape(), b.shape()};
      view.constants = {nullptr, &b};
      view.output_dtypes = {DType::F32};
      view.output_shapes = {{m, n}};
      const std::string tactic = def->tactics(view).front();
      const Tensor packed = def->pack(view, tactic, 1);
      view.constants[1] = &packed;
      const auto kernel = def->make(view, tactic);
      Tensor out = Tensor::empty(DType::F32, {m, n}), workspace = Tensor::empty(DType::U8, {kernel->workspace_bytes()});
      const Tensor inputs[] = {rows, packed};
      ThreadPool pool(2);
      kernel->run(RunArgs{inputs, {&out, 1}, workspace.raw(), &pool});
      if (m == total) all = out;
      else ASSERT_EQ(std::memcmp(out.raw(), all.data<float>() + first * n, out.size_bytes()), 0) << name << " " << m << " rows";
    }
  }
}

}  // namespace
}  // namespace tokamak::cpu
