// Two contexts on two threads over one engine: every run gives the bytes that one context gives alone. Under the tsan preset this is also
// the proof that an engine, its kernels and the shared pool are free of races.

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "backends/cpu/thread_pool.h"
#include "builder/builder.h"
#include "ir/text.h"
#include "runtime/execution_context.h"

namespace tokamak {
namespace {

// One value for each symbol and each input position, the same for every caller.
std::vector<Tensor> inputs_of(const Engine& engine, int64_t symbols) {
  std::vector<Tensor> tensors;
  std::mt19937 random(17);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (const TensorInfo& info : engine.inputs()) {
    Shape shape;
    for (const ir::Dim& dim : info.type.dims) shape.push_back(dim.is_const() ? dim.value() : symbols);
    Tensor t = Tensor::zeros(info.dtype, shape);
    for (int64_t i = 0; i < t.count(); ++i) {
      if (info.dtype == DType::F32) t.data<float>()[i] = uniform(random);
      if (info.dtype == DType::I64) t.data<int64_t>()[i] = static_cast<int64_t>(random() % 8);
    }
    tensors.push_back(std::move(t));
  }
  return tensors;
}

std::vector<Tensor> run(ExecutionContext& context, const std::vector<Tensor>& inputs) {
  for (size_t i = 0; i < inputs.size(); ++i) context.set_input(context.engine().inputs()[i].name, inputs[i]);
  context.run();
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < context.engine().outputs().size(); ++i) outputs.push_back(context.output(static_cast<int>(i)).clone());
  return outputs;
}

void expect_parallel_equals_alone(const std::shared_ptr<const Engine>& engine, int rounds) {
  const std::vector<std::vector<Tensor>> inputs = {inputs_of(*engine, 2),
                                                   inputs_of(*engine, 3)};  // shapes alternate: plans change while others run
  std::vector<std::vector<Tensor>> expected;
  ExecutionContext alone(engine);
  for (const auto& set : inputs) expected.push_back(run(alone, set));
  // With a pool of their own each, and with one pool for both.
  for (const auto& pool : {std::shared_ptr<ThreadPool>(), std::make_shared<ThreadPool>(2)}) {
    std::atomic<int> different{0};
    const auto work = [&](size_t first) {
      ContextOptions options;
      options.pool = pool ? pool : std::make_shared<ThreadPool>(2);
      ExecutionContext context(engine, options);
      for (int round = 0; round < rounds; ++round) {
        const size_t set = (first + static_cast<size_t>(round)) % inputs.size();
        const std::vector<Tensor> outputs = run(context, inputs[set]);
        for (size_t i = 0; i < outputs.size(); ++i)
          if (!same_bytes(outputs[i], expected[set][i])) ++different;
      }
    };
    std::thread other(work, 1);
    work(0);
    other.join();
    EXPECT_EQ(different, 0) << (pool ? "one pool" : "two pools");
  }
}

TEST(ParallelContexts, SmallGraph) {
  auto graph = ir::parse(
      "graph main(%x: f32[n,24]) {\n"
      " %b = const f32[40] splat {0.5}\n"
      " %w = const f32[24,40] @0\n"
      " %m = matmul(%x, %w)\n %a = add(%m, %b)\n %r = gelu(%a)\n %s = softmax(%r) {axis=-1}\n"
      " %l = reduce_mean(%r) {axes=[1], keepdims=0}\n return %s, %l\n}",
      {.constant = [](int64_t, DType dtype, const Shape& shape, const std::string&) {
        Tensor t = Tensor::empty(dtype, shape);
        std::mt19937 random(5);
        for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = static_cast<float>(random() % 200) / 100 - 1;
        return t;
      }});
  EngineInfo info;
  info.num_threads = 2;
  expect_parallel_equals_alone(std::make_shared<const Engine>(std::move(graph), info), 50);
}

// Control flow runs node by node, with kernels made on the way.
TEST(ParallelContexts, NodeByNode) {
  auto graph = ir::parse(
      "graph main(%x: f32[n,4]) {\n"
      " %k = const i64[] {5}\n %t = const bool[] {1}\n"
      " %y, %z = loop(%k, %t, %x) with graph body(%i: i64[], %c: bool[], %s: f32[n,4]) { %d = add(%s, %s) %e = tanh(%d) return %c, %d, %e "
      "}\n"
      " return %y, %z\n}");
  EngineInfo info;
  info.num_threads = 2;
  expect_parallel_equals_alone(std::make_shared<const Engine>(std::move(graph), info), 20);
}

TEST(ParallelContexts, ExampleModels) {
  for (const char* name : {"digits-resnet.ts", "bilstm-tagger.ts"}) {
    const std::string path = std::string(TOKAMAK_SOURCE_DIR "/examples/models/") + name + "/model.onnx";
    ASSERT_TRUE(std::filesystem::exists(path)) << path;
    BuildOptions options;
    options.opt_level = 1;
    options.num_threads = 2;
    SCOPED_TRACE(name);
    expect_parallel_equals_alone(build_engine(path, options), 6);
  }
}

}  // namespace
}  // namespace tokamak
