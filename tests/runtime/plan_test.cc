// Concats whose inputs are written in place.

#include "runtime/plan.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"

namespace tokamak {
namespace {

constexpr int64_t kBatch = 2, kSize = 9, kChannels = 20;

Tensor random_tensor(Shape shape, unsigned seed) {
  Tensor t = Tensor::empty(DType::F32, std::move(shape));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.3f);
  for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = normal(random);
  return t;
}

// Three branches of one input: an expanding 1x1 convolution, a 3x3 one and a max pool.
struct Branches {
  ir::Graph graph;
  ir::Value* x;
  std::vector<ir::Value*> parts;

  explicit Branches(const std::string& epilogue = "") {
    x = graph.add_input("x", ir::TensorType(DType::F32, {kBatch, kSize, kSize, kChannels}));
    parts = {conv(37, 1, epilogue, 1), conv(24, 3, epilogue, 2)};
    ir::Node* pool = graph.add_node(
        "max_pool", {x},
        {{"layout", std::string("NHWC")}, {"kernel", ir::Ints{3, 3}}, {"strides", ir::Ints{1, 1}}, {"pads", ir::Ints{1, 1, 1, 1}}});
    parts.push_back(pool->output(0));
  }
  ir::Value* conv(int64_t m, int64_t k, const std::string& epilogue, unsigned seed) {
    ir::Attrs attrs = {{"layout", std::string("NHWC")}, {"pads", ir::Ints(4, k / 2)}};
    std::vector<ir::Value*> inputs = {x, graph.add_constant(random_tensor({m, kChannels, k, k}, seed), "w"),
                                      graph.add_constant(random_tensor({m}, seed + 10), "b")};
    if (!epilogue.empty()) {
      attrs.set("epilogue", epilogue);
      attrs.set("epilogue_input", int64_t{3});
      if (epilogue.find("i1") != std::string::npos)
        inputs.push_back(graph.add_constant(random_tensor({kBatch, kSize, kSize, m}, seed + 20), "r"));
    }
    return graph.add_node("conv", inputs, attrs)->output(0);
  }
  ir::Value* concat(std::vector<ir::Value*> values, int64_t axis = -1) {
    return graph.add_node("concat", values, {{"axis", axis}})->output(0);
  }
};

struct Outcome {
  std::vector<Tensor> outputs;
  int steps;
};

Outcome run(const ir::Graph& graph, int threads) {
  const Shape shape{kBatch, kSize, kSize, kChannels};
  Plan plan(graph, bind_shapes(graph, {shape}, threads), threads);
  Tensor arena = Tensor::empty(DType::U8, {plan.arena_bytes()});
  std::memset(arena.raw(), 0x7f, arena.size_bytes());
  plan.place(static_cast<std::byte*>(arena.raw()));
  plan.set_input(0, random_tensor(shape, 5));
  ThreadPool pool(threads);
  plan.run(pool, nullptr);
  Outcome outcome{{}, plan.num_steps()};
  for (size_t i = 0; i < graph.outputs().size(); ++i) outcome.outputs.push_back(plan.output(static_cast<int>(i)).clone());
  return outcome;
}

// The concat's output (`whole`) against the parts that another plan computed apart.
void expect_joined(const Tensor& whole, const std::vector<Tensor>& parts) {
  const int64_t columns = whole.shape().back(), rows = whole.count() / columns;
  int64_t at = 0;
  for (const Tensor& part : parts) {
    const int64_t width = part.shape().back();
    for (int64_t r = 0; r < rows; ++r)
      ASSERT_EQ(std::memcmp(whole.data<float>() + r * columns + at, part.data<float>() + r * width, width * sizeof(float)), 0)
          << "row " << r << " column " << at;
    at += width;
  }
  ASSERT_EQ(at, columns);
}

bool has_pitching_kernels() { return cpu_features().avx2; }

TEST(Plan, ConcatIsWrittenByItsProducers) {
  if (!has_pitching_kernels()) GTEST_SKIP() << "needs AVX2: the reference kernels write dense outputs";
  // No epilogue, one that the registers apply, and a program.
  for (const char* epilogue : {"", "t0 = relu(i0); ret t0", "t0 = silu(i0); ret t0", "t0 = sigmoid(i0); t1 = mul(t0, i1); ret t1"})
    for (int threads : {1, 2}) {
      Branches apart(epilogue), joined(epilogue);
      apart.graph.set_outputs(apart.parts);
      joined.graph.set_outputs({joined.concat(joined.parts)});
      const Outcome want = run(apart.graph, threads), got = run(joined.graph, threads);
      EXPECT_EQ(got.steps, want.steps) << epilogue;  // no step for the concat
      expect_joined(got.outputs[0], want.outputs);
    }
}

// Each method of convolution writes into the wider tensor.
TEST(Plan, EveryConvolutionKernelWritesItsPart) {
  for (const KernelDef* def : cpu::kernels_for("conv")) {
    Branches apart, joined;
    const auto prefer = [&](Branches& branches) {
      ir::Node* node = branches.parts[1]->producer();
      const NodeView view = make_view(*node, bind_shapes(branches.graph, {{kBatch, kSize, kSize, kChannels}}, 1), 1);
      if (!def->supports(view)) return false;
      node->kernel = def->name();
      node->tactic = def->tactics(view).front();
      node->set_input(1, branches.graph.add_constant(random_tensor({24, kChannels, 3, 3}, 2), "v"));
      return true;
    };
    apart.graph.set_outputs(apart.parts);
    joined.graph.set_outputs({joined.concat(joined.parts)});
    if (!prefer(apart) || !prefer(joined)) continue;
    SCOPED_TRACE(std::string(def->name()));
    expect_joined(run(joined.graph, 1).outputs[0], run(apart.graph, 1).outputs);
  }
}

TEST(Plan, ConcatIsCopiedWhereItMustBe) {
  const auto check = [](const char* what, const char* epilogue, auto&& outputs_of) {
    SCOPED_TRACE(what);
    Branches apart(epilogue), joined(epilogue);
    apart.graph.set_outputs(apart.parts);
    joined.graph.set_outputs(outputs_of(joined));
    const Outcome want = run(apart.graph, 2), got = run(joined.graph, 2);
    EXPECT_GT(got.steps, want.steps);
    expect_joined(got.outputs[0], want.outputs);
  };
  // The residual is read at the output's own pitch.
  check("residual", "t0 = add(i0, i1); ret t0", [](Branches& b) { return std::vector<ir::Value*>{b.concat(b.parts)}; });
  check("second user", "", [](Branches& b) {
    return std::vector<ir::Value*>{b.concat(b.parts), b.graph.add_node("relu", {b.parts[1]})->output(0)};
  });
  check("graph output", "", [](Branches& b) { return std::vector<ir::Value*>{b.concat(b.parts), b.parts[0]}; });
}

TEST(Plan, ConcatOfOneValueTwiceAndOfAnInput) {
  Branches b;
  ir::Value* twice = b.concat({b.parts[0], b.parts[0]});
  ir::Value* with_input = b.concat({b.parts[1], b.x});
  b.graph.set_outputs({twice, with_input, b.parts[2]});
  Branches apart;
  apart.graph.set_outputs(apart.parts);
  const Outcome want = run(apart.graph, 1), got = run(b.graph, 1);
  expect_joined(got.outputs[0], {want.outputs[0], want.outputs[0]});
  expect_joined(got.outputs[1], {want.outputs[1], random_tensor({kBatch, kSize, kSize, kChannels}, 5)});
}

// A whole that dies at once lends its memory to nobody while its parts are still being written.
TEST(Plan, JoinedConcatInTheMiddle) {
  Branches b, apart;
  ir::Value* whole = b.graph.add_node("relu", {b.concat({b.parts[0], b.parts[2]})})->output(0);
  ir::Value* other = b.graph.add_node("tanh", {b.parts[1]})->output(0);
  b.graph.set_outputs({whole, other});
  apart.graph.set_outputs({apart.graph.add_node("relu", {apart.parts[0]})->output(0),
                           apart.graph.add_node("relu", {apart.parts[2]})->output(0),
                           apart.graph.add_node("tanh", {apart.parts[1]})->output(0)});
  const Outcome want = run(apart.graph, 2), got = run(b.graph, 2);
  expect_joined(got.outputs[0], {want.outputs[0], want.outputs[1]});
  expect_joined(got.outputs[1], {want.outputs[2]});
}

}  // namespace
}  // namespace tokamak
