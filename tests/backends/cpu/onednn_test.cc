// The oneDNN kernels against `ref`, where the build has them.

#include "backends/cpu/cpu_features.h"
#include "one_node.h"
#include "tune/tuner.h"

namespace tokamak {
namespace {

using test::OneNode;
using test::random_tensor;

std::vector<double> reference(const char* op, const std::vector<Tensor>& inputs, const ir::Attrs& attrs, const Shape& output) {
  std::vector<bool> constant(inputs.size(), false);
  constant[1] = true;
  OneNode node(inputs, constant, attrs, output, 1);
  node.prepare(*cpu::find_kernel(std::string("ref.") + op), "");
  const Tensor& y = node.run();
  return {y.data<float>(), y.data<float>() + y.count()};
}

// Compares on two threads with one; false when the kernel declines.
bool check(const char* op, const std::vector<Tensor>& inputs, const ir::Attrs& attrs, const Shape& output, const std::string& what) {
  const KernelDef* def = cpu::find_kernel(std::string("onednn.") + op);
  const std::vector<double> expected = reference(op, inputs, attrs, output);
  std::vector<bool> constant(inputs.size(), false);
  constant[1] = true;
  for (int threads : {1, 2}) {
    OneNode node(inputs, constant, attrs, output, threads);
    const Support support = def->supports(node.view());
    if (!support) {
      EXPECT_NE(support.reason(), "") << what;
      return false;
    }
    node.prepare(*def, "");
    EXPECT_EQ(node.view().constants[1]->layout().substr(0, 7), "onednn.") << what;
    EXPECT_FALSE(def->pack(node.view(), "", 1).defined()) << "packing is idempotent";
    node.run();
    test::expect_close(node.run(), expected, 1e-4, 1e-4, fmt::format("{} threads {}", what, threads));
    EXPECT_TRUE(node.guard_intact()) << what;
  }
  return true;
}

class Onednn : public testing::Test {
 protected:
  void SetUp() override {
    if (cpu::find_kernel("onednn.conv") == nullptr) GTEST_SKIP() << "built without oneDNN";
  }
};

TEST_F(Onednn, Conv) {
  unsigned seed = 1;
  int ran = 0;
  for (int64_t kernel : {1, 3, 5})
    for (int64_t stride : {1, 2})
      for (int64_t dilation : {1, 2})
        for (const auto& [c, m, group] : {std::tuple<int64_t, int64_t, int64_t>{3, 24, 1},
                                          {16, 64, 1},
                                          {17, 70, 1},
                                          {32, 32, 32},
                                          {58, 58, 58},
                                          {64, 32, 4},
                                          {12, 20, 2}}) {
          const int64_t h = 13, w = 10, pad = kernel / 2, extent = (kernel - 1) * dilation + 1;
          const Shape y = {2, (h + 2 * pad - extent) / stride + 1, (w + pad - extent) / stride + 1, m};
          const ir::Attrs attrs = {{"strides", ir::Ints{stride, stride}},
                                   {"dilations", ir::Ints{dilation, dilation}},
                                   {"pads", ir::Ints{pad, pad, pad, 0}},
                                   {"group", group},
                                   {"layout", std::string("NHWC")}};
          std::vector<Tensor> inputs = {random_tensor({2, h, w, c}, ++seed), random_tensor({m, c / group, kernel, kernel}, ++seed, 0.2f),
                                        Tensor()};
          if (seed % 4 == 1) inputs[2] = random_tensor({m}, ++seed);
          ran += check("conv", inputs, attrs, y, fmt::format("k{} s{} d{} {} -> {} g{}", kernel, stride, dilation, c, m, group));
        }
  EXPECT_GE(ran, 60);  // of 84: it may lack a method for a few
}

TEST_F(Onednn, Epilogues) {
  const char* const activations[] = {"relu(t0)", "clip(t0, 0, 6)", "gelu(t0)", "gelu_tanh(t0)",
                                     "silu(t0)", "sigmoid(t0)",    "tanh(t0)", "hard_swish(t0)"};
  unsigned seed = 100;
  int ran = 0;
  for (const char* activation : activations)
    for (bool after : {false, true}) {
      std::string text = fmt::format("t0 = add(i0, i1); t1 = {}; t2 = add(t1, i2); ret t2", activation);
      if (!after)
        text = "t0 = add(i0, i1); t1 = add(t0, i2); t2 = " +
               std::string(activation).replace(std::strchr(activation, '(') + 1 - activation, 2, "t1") + "; ret t2";
      ir::Attrs conv = {{"layout", std::string("NHWC")}, {"epilogue", text}, {"epilogue_input", int64_t{3}}};
      ran += check("conv",
                   {random_tensor({1, 5, 6, 16}, ++seed), random_tensor({40, 16, 1, 1}, ++seed, 0.3f), random_tensor({40}, ++seed),
                    random_tensor({40}, ++seed), random_tensor({1, 5, 6, 40}, ++seed)},
                   conv, {1, 5, 6, 40}, text);
      ir::Attrs matmul = {{"epilogue", text}, {"epilogue_input", int64_t{2}}};
      ran += check("matmul",
                   {random_tensor({3, 7, 20}, ++seed), random_tensor({20, 33}, ++seed, 0.3f), random_tensor({33}, ++seed),
                    random_tensor({3, 7, 33}, ++seed)},
                   matmul, {3, 7, 33}, text);
    }
  EXPECT_GE(ran, cpu_features().avx512 ? 32 : 1);  // with AVX2 alone it has no method for some
}

TEST_F(Onednn, Matmul) {
  unsigned seed = 200;
  for (int64_t m : {1, 2, 19, 130})
    for (int64_t k : {1, 31, 64, 300})
      for (int64_t n : {1, 17, 64, 129})
        for (bool trans_b : {false, true}) {
          const ir::Attrs attrs = {{"trans_b", int64_t{trans_b}}};
          EXPECT_TRUE(check("matmul", {random_tensor({m, k}, ++seed), random_tensor(trans_b ? Shape{n, k} : Shape{k, n}, ++seed, 0.2f)},
                            attrs, {m, n}, fmt::format("{}x{}x{}", m, k, n)));
        }
  EXPECT_TRUE(check("matmul", {random_tensor({2, 3, 9, 24}, 1), random_tensor({24, 48}, 2)}, {}, {2, 3, 9, 48}, "a batch of a"));
}

// The same packed weights serve other sizes of x, as in an engine with dynamic shapes.
TEST_F(Onednn, PackedOnceForEveryShape) {
  const KernelDef* def = cpu::find_kernel("onednn.conv");
  const ir::Attrs attrs = {{"layout", std::string("NHWC")}, {"pads", ir::Ints{1, 1, 1, 1}}};
  const Tensor w = random_tensor({96, 64, 3, 3}, 1, 0.1f);
  Tensor packed;
  for (int64_t size : {56, 14, 3}) {
    const Tensor x = random_tensor({1, size, size, 64}, 2);
    const Shape y = {1, size, size, 96};
    OneNode first({x, w}, {false, true}, attrs, y, 2);
    if (!packed.defined()) packed = def->pack(first.view(), "", 1);
    OneNode node({x, packed}, {false, true}, attrs, y, 2);
    ASSERT_TRUE(static_cast<bool>(def->supports(node.view()))) << def->supports(node.view()).reason();
    node.prepare(*def, "");
    test::expect_close(node.run(), reference("conv", {x, w}, attrs, y), 1e-4, 1e-4, fmt::format("size {}", size));
  }
}

TEST_F(Onednn, SaysWhyNot) {
  const auto reason = [](const char* kernel, std::vector<Tensor> inputs, std::vector<bool> constant, ir::Attrs attrs, Shape y) {
    OneNode node(std::move(inputs), std::move(constant), std::move(attrs), std::move(y), 1);
    return cpu::find_kernel(kernel)->supports(node.view()).reason();
  };
  const Tensor x = random_tensor({1, 4, 4, 8}, 1), w = random_tensor({8, 8, 1, 1}, 2), a = random_tensor({4, 8}, 3),
               b = random_tensor({8, 8}, 4);
  EXPECT_EQ(reason("onednn.conv", {x, w}, {false, false}, {{"layout", std::string("NHWC")}}, {1, 4, 4, 8}), "the weights are not constant");
  EXPECT_EQ(reason("onednn.conv", {random_tensor({1, 8, 4, 4}, 1), w}, {false, true}, {}, {1, 8, 4, 4}), "the layout is NCHW, needs NHWC");
  EXPECT_EQ(reason("onednn.matmul", {a, b}, {false, true}, {{"alpha", 0.5}}, {4, 8}), "alpha is not 1");
  EXPECT_EQ(reason("onednn.matmul", {a, b}, {false, true}, {{"epilogue", std::string("t0 = abs(i0); ret t0")}}, {4, 8}),
            "the epilogue is more than a bias, an activation and a residual");
  Tensor other = Tensor::packed(DType::F32, {8, 8}, "gemm.nr64", 8 * 64 * 4);
  EXPECT_EQ(reason("onednn.matmul", {a, other}, {false, true}, {}, {4, 8}), "the weights are packed as gemm.nr64");
}

// They allocate, so only thorough tuning considers them.
TEST_F(Onednn, CandidatesFromLevelFour) {
  for (int level : {1, 3, 4}) {
    ir::Graph graph;
    ir::Value* a = graph.add_input("a", ir::TensorType(DType::F32, {8, 32}));
    ir::Node* node = graph.add_node("matmul", {a, graph.add_constant(random_tensor({32, 32}, 1), "b")});
    graph.set_outputs({node->output(0)});
    ThreadPool pool(1);
    tune::TimingCache cache;
    BuildReport report;
    tune::TunerOptions options;
    options.opt_level = level;
    const tune::TuningPoint point{bind_shapes(graph, {{8, 32}}, 1), {}};
    tune::tune(graph, {&point, 1}, pool, cache, options, report);
    ASSERT_EQ(report.tactics.size(), 1u);
    bool timed = false;
    for (const auto& [name, us] : report.tactics[0].candidates) timed |= name.starts_with("onednn.");
    EXPECT_EQ(timed, level >= 4) << level;
  }
}

}  // namespace
}  // namespace tokamak
