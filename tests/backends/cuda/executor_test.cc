// Engines for a GPU, run. Without a GPU: what the error says.
#ifdef TOKAMAK_CUDA
#include "backends/cuda/executor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <thread>

#include "ir/text.h"
#include "runtime/execution_context.h"
#include "tests/support/gpu_memory.h"
#include "tests/support/message_of.h"

namespace tokamak {
namespace {

using test::message_of;

using cuda::Device;
using cuda::driver;

std::shared_ptr<const Engine> engine_of(const std::string& text, const std::string& device = "cuda", std::string target = "") {
  EngineInfo info;
  info.device = device;
  if (device == "cuda") info.target = target.empty() ? Device::is_available() ? Device::get()->target().name() : "sm_90" : target;
  return std::make_shared<const Engine>(ir::parse(text), info);
}

Tensor random_tensor(const Shape& shape, int seed) {
  Tensor t = Tensor::empty(DType::F32, shape);
  std::mt19937 random(static_cast<unsigned>(seed));
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = normal(random);
  return t;
}

void expect_near(const Tensor& actual, const Tensor& expected) {
  ASSERT_EQ(actual.shape(), expected.shape());
  for (int64_t i = 0; i < actual.count(); ++i)
    ASSERT_NEAR(actual.float_at(i), expected.float_at(i), 1e-5 + 1e-5 * std::abs(expected.float_at(i))) << "element " << i;
}

// All on the GPU.
constexpr const char* kDeviceOnly =
    "graph g(%x: f32[n,100], %y: f32[n,100]) {\n"
    " %a: f32[n,100] = softmax(%x) {axis=-1}\n %b: f32[n,100] = log_softmax(%a) {axis=-1}\n %c: f32[n,100] = softmax(%b) {axis=0}\n"
    " %d: f32[n,100] = log_softmax(%y) {axis=0}\n %e: f32[100,n] = reshape(%d) {shape=<100,n>}\n return %c, %e, %b\n}";
// Host steps between, one of which reads an input too, and a value that both sides read.
constexpr const char* kMixed =
    "graph g(%x: f32[n,100], %y: f32[n,100]) {\n"
    " %a: f32[n,100] = softmax(%x) {axis=-1}\n"
    " %b: f32[n,100] = add(%a, %y) {} \"add\" kernel \"ref.add\" \"\"\n"
    " %c: f32[n,100] = softmax(%b) {axis=-1}\n"
    " %d: f32[n,100] = mul(%c, %b) {} \"mul\" kernel \"ref.mul\" \"\"\n"
    " %e: f32[n,100] = log_softmax(%d) {axis=0}\n"
    " %f: f32[n,100] = relu(%e) {} \"relu\" kernel \"ref.relu\" \"\"\n"
    " return %e, %f, %a\n}";

#define NEED_GPU()                                             \
  if (!Device::is_available()) {                               \
    GTEST_SKIP() << "needs a GPU: " << cuda::driver_problem(); \
  }

std::vector<Tensor> results(ExecutionContext& context) {
  std::vector<Tensor> out;
  for (size_t i = 0; i < context.engine().outputs().size(); ++i) out.push_back(context.output(static_cast<int>(i)).clone());
  return out;
}

std::vector<Tensor> on_cpu(const std::string& text, const std::vector<Tensor>& inputs) {
  ExecutionContext context(engine_of(text, "cpu"));
  for (size_t i = 0; i < inputs.size(); ++i) context.set_input(context.engine().inputs()[i].name, inputs[i]);
  context.run();
  return results(context);
}

// Runs the context of `text` on inputs x and y.
void expect_as_on_cpu(ExecutionContext& context, const std::string& text, const std::vector<Tensor>& inputs) {
  context.set_input("x", inputs[0]);
  context.set_input("y", inputs[1]);
  context.run();
  const auto expected = on_cpu(text, inputs);
  for (size_t i = 0; i < expected.size(); ++i) expect_near(context.output(static_cast<int>(i)), expected[i]);
}

TEST(CudaExecutor, WithoutAGpuTheErrorSaysSo) {
  const auto engine = engine_of(kDeviceOnly);
  EXPECT_EQ(engine->num_kernels(), 4);  // can be inspected
  if (Device::is_available()) GTEST_SKIP() << "there is a GPU";
  const std::string message = message_of([&] { ExecutionContext context(engine); });
  EXPECT_NE(message.find("sm_90"), std::string::npos) << message;
  EXPECT_NE(message.find("CUDA cannot be used here"), std::string::npos) << message;
}

TEST(CudaExecutor, TargetsThatAreNone) {
  for (const char* target : {"avx2", "sm_", "sm_9x", "sm_-1", "sm_90 "})
    EXPECT_NE(message_of([&] { ExecutionContext context(engine_of(kDeviceOnly, "cuda", target)); }).find("expected an architecture"),
              std::string::npos)
        << target;
}

TEST(CudaExecutor, TensorsOfAGpuNeedAnEngineForOne) {
  ExecutionContext context(engine_of(kDeviceOnly, "cpu"));
  EXPECT_NE(message_of([&] {
              context.set_input("x", Tensor::zeros(DType::F32, {1, 100}), Place::Device);
            }).find("engine for the CPU"),
            std::string::npos);
}

TEST(CudaExecutor, OtherFamiliesAreRefusedAndTheSameOneIsCompiledAgain) {
  NEED_GPU();
  const int arch = Device::get()->target().arch;
  const std::string other = arch / 10 == 8 ? "sm_90" : "sm_80";
  EXPECT_NE(message_of([&] { ExecutionContext context(engine_of(kDeviceOnly, "cuda", other)); }).find("another family"), std::string::npos);
  ExecutionContext context(engine_of(kDeviceOnly, "cuda", fmt::format("sm_{}", arch / 10 * 10 + (arch % 10 == 0 ? 7 : 0))));
  ASSERT_FALSE(context.fallbacks().empty());
  EXPECT_NE(context.fallbacks()[0].find("compiled again"), std::string::npos);
}

TEST(CudaExecutor, AgreesWithTheCpu) {
  NEED_GPU();
  for (const char* text : {kDeviceOnly, kMixed}) {
    ExecutionContext context(engine_of(text));
    for (int round = 0; round < 8; ++round) {  // plain launches, capture, replay; shapes come back
      const int64_t n = round % 4 == 3 ? 700 : 5;
      expect_as_on_cpu(context, text, {random_tensor({n, 100}, round), random_tensor({n, 100}, 100 + round)});
    }
    for (const std::string& f : context.fallbacks()) EXPECT_EQ(f.find("no CUDA graph"), std::string::npos) << f;
  }
}

TEST(CudaExecutor, GraphReplayEqualsPlainLaunches) {
  NEED_GPU();
  const auto engine = engine_of(kDeviceOnly);
  ExecutionContext graphs(engine), plain(engine, {.cuda_graphs = false});
  for (int round = 0; round < 5; ++round) {
    const Tensor x = random_tensor({17, 100}, round), y = random_tensor({17, 100}, 50 + round);
    for (ExecutionContext* context : {&graphs, &plain}) {
      context->set_input("x", x);
      context->set_input("y", y);
      context->run();
    }
    const auto a = results(graphs), b = results(plain);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bytes(a[i], b[i])) << "round " << round << " output " << i;
  }
}

// Graphs of small shapes do not outlive the arena that a larger one replaces, wherever the new one lies.
TEST(CudaExecutor, ShapesThatGrowBetweenReplays) {
  NEED_GPU();
  for (const char* text : {kDeviceOnly, kMixed}) {
    ExecutionContext context(engine_of(text));
    int seed = 0;
    for (const int64_t largest : {3, 40, 500, 6000}) {
      for (int round = 0; round < 4; ++round) {  // all the shapes until now: launched, captured, replayed
        for (const int64_t n : {3, 40, 500, 6000}) {
          if (n > largest) break;
          expect_as_on_cpu(context, text, {random_tensor({n, 100}, ++seed), random_tensor({n, 100}, ++seed)});
        }
      }
    }
    for (const std::string& f : context.fallbacks()) EXPECT_EQ(f.find("no CUDA graph"), std::string::npos) << f;
  }
}

TEST(CudaExecutor, TensorsOfTheGpuGoInAndOut) {
  NEED_GPU();
  const auto device = Device::get();
  const auto engine = engine_of(kDeviceOnly);
  ExecutionContext context(engine, {.output_place = Place::Device});
  cuda::Buffer buffers[2] = {device->allocate(16 * 100 * 4, "test"), device->allocate(16 * 100 * 4, "test")};
  for (int round = 0; round < 6; ++round) {
    const Tensor x = random_tensor({16, 100}, round), y = random_tensor({16, 100}, round + 9);
    // The address stays for three runs, so that a graph is captured and replayed, then changes.
    const cuda::Buffer& buffer = buffers[round / 3];
    cuda::check(driver().cuMemcpyHtoD(buffer.pointer(), x.raw(), static_cast<size_t>(x.size_bytes())), "upload");
    cuda::check(driver().cuStreamSynchronize(nullptr), "upload");
    context.set_input("x", Tensor::view(DType::F32, {16, 100}, buffer.data()), Place::Device);
    context.set_input("y", y);
    context.run_async();
    const auto expected = on_cpu(kDeviceOnly, {x, y});
    for (int i = 0; i < 3; ++i) {
      const Tensor& out = context.output(i);
      Tensor host = Tensor::empty(DType::F32, out.shape());
      cuda::check(driver().cuMemcpyDtoHAsync(host.raw(), reinterpret_cast<CUdeviceptr>(out.raw()), static_cast<size_t>(host.size_bytes()),
                                             context.stream()),
                  "download");
      context.synchronize();
      expect_near(host, expected[i]);
    }
  }
}

// The host fills the inputs of the next run while this one is still queued.
TEST(CudaExecutor, RunsFollowEachOtherWithoutWaiting) {
  NEED_GPU();
  for (const char* text : {kDeviceOnly, kMixed}) {
    ExecutionContext context(engine_of(text));
    const Tensor last_x = random_tensor({300, 100}, 1), last_y = random_tensor({300, 100}, 2);
    Tensor x = Tensor::empty(DType::F32, {300, 100}), y = Tensor::empty(DType::F32, {300, 100});
    context.set_input("x", x);
    context.set_input("y", y);
    for (int run = 0; run < 20; ++run) {
      const bool is_last = run == 19;
      for (int64_t i = 0; i < x.count(); ++i) {
        x.data<float>()[i] = is_last ? last_x.data<float>()[i] : static_cast<float>(run);
        y.data<float>()[i] = is_last ? last_y.data<float>()[i] : static_cast<float>(-run);
      }
      context.run_async();
    }
    std::fill_n(x.data<float>(), x.count(), NAN);  // read already
    if (text == kDeviceOnly) std::fill_n(y.data<float>(), y.count(), NAN);
    const auto expected = on_cpu(text, {last_x, last_y});
    for (size_t i = 0; i < expected.size(); ++i) expect_near(context.output(static_cast<int>(i)), expected[i]);
  }
}

TEST(CudaExecutor, TwoContextsOnTwoThreads) {
  NEED_GPU();
  const auto engine = engine_of(kMixed);
  std::vector<Tensor> x, y;
  for (int i = 0; i < 4; ++i) x.push_back(random_tensor({40, 100}, i)), y.push_back(random_tensor({40, 100}, 40 + i));
  std::vector<std::vector<Tensor>> alone;
  {
    ExecutionContext context(engine);
    for (int i = 0; i < 4; ++i) {
      context.set_input("x", x[i]);
      context.set_input("y", y[i]);
      context.run();
      alone.push_back(results(context));
    }
  }
  std::vector<std::thread> threads;
  std::vector<int> wrong(2, 0);
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      ExecutionContext context(engine);
      for (int round = 0; round < 40; ++round) {
        const int i = (round + t) % 4;
        context.set_input("x", x[i]);
        context.set_input("y", y[i]);
        context.run();
        const auto mine = results(context);
        for (size_t k = 0; k < mine.size(); ++k) wrong[t] += !same_bytes(mine[k], alone[i][k]);
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong, (std::vector<int>{0, 0}));
}

TEST(CudaExecutor, MemoryComesBack) {
  NEED_GPU();
  const auto device = Device::get();
  const auto code = std::make_shared<cuda::CodeCache>();
  const auto load_and_run = [&] {
    auto graph = ir::parse(kDeviceOnly);
    ir::Value* w = graph->add_constant(Tensor::zeros(DType::F32, {100, 100000}), "w");  // 40 MB
    std::vector<ir::Value*> outputs(graph->outputs().begin(), graph->outputs().end());
    outputs.push_back(graph->build("matmul", {outputs[2], w}));
    graph->set_outputs(outputs);
    EngineInfo info;
    info.device = "cuda";
    info.target = device->target().name();
    const auto engine = std::make_shared<const Engine>(std::move(graph), info, code);
    ExecutionContext context(engine, {.output_place = Place::Device});
    for (int run = 0; run < 3; ++run) {
      context.set_input("x", random_tensor({1, 100}, run));
      context.set_input("y", random_tensor({1, 100}, run));
      context.run();
    }
  };
  EXPECT_LE(test::bytes_left_behind(*device, load_and_run), 4 << 20);
}

TEST(CudaExecutor, WhatDoesNotFitIsNamedBeforeAnythingIsAllocated) {
  NEED_GPU();
  const auto device = Device::get();
  ExecutionContext context(engine_of("graph g(%x: f32[n,1024]) {\n %a: f32[n,1024] = softmax(%x) {axis=-1}\n %b: f32[n,1024] = "
                                     "log_softmax(%x) {axis=-1}\n return %a, %b\n}"),
                           {.output_place = Place::Device});
  const auto small_run = [&] {
    context.set_input("x", random_tensor({2, 1024}, 1));
    context.run();
  };
  small_run();  // loads the code
  const int64_t before = device->free_bytes(), rows = before / 1024 / 4 + 1024;
  // The tensor itself is never read: planning refuses it first.
  context.set_input("x", Tensor::view(DType::F32, {rows, 1024}, "", nullptr), Place::Device);
  const std::string message = message_of([&] { context.prepare(); });
  EXPECT_NE(message.find("bytes of weights"), std::string::npos) << message;
  EXPECT_NE(message.find("activations and workspace"), std::string::npos) << message;
  EXPECT_LT(std::abs(device->free_bytes() - before), before / 4) << "two outputs of half of it were not allocated";
  EXPECT_NO_THROW(small_run()) << "the context goes on with less";
}

class Recorder : public Profiler {
 public:
  void on_node(const ir::Node& node, int64_t start_ns, int64_t end_ns) override { add(node.label(), start_ns, end_ns); }
  void on_copy(std::string_view name, int64_t bytes, int64_t start_ns, int64_t end_ns) override {
    EXPECT_GT(bytes, 0);
    add(std::string(name), start_ns, end_ns);
  }
  std::vector<std::string> names;

 private:
  void add(const std::string& name, int64_t start_ns, int64_t end_ns) {
    names.push_back(name);
    EXPECT_LE(start_ns, end_ns) << name;
    EXPECT_LT(end_ns - start_ns, 10'000'000'000) << name;
  }
};

TEST(CudaExecutor, ProfilesEveryStep) {
  NEED_GPU();
  ExecutionContext context(engine_of(kMixed));
  Recorder recorder;
  const Tensor x = random_tensor({64, 100}, 1), y = random_tensor({64, 100}, 2);
  context.set_input("x", x);
  context.set_input("y", y);
  context.set_profiler(&recorder);
  context.run();
  ASSERT_EQ(recorder.names.size(), context.steps().size());  // one upload of inputs, all else step by step
  EXPECT_EQ(recorder.names.front(), "upload inputs");
  const auto expected = on_cpu(kMixed, {x, y});
  for (size_t i = 0; i < expected.size(); ++i) expect_near(context.output(static_cast<int>(i)), expected[i]);
  context.set_profiler(nullptr);
  context.run();
  EXPECT_EQ(recorder.names.size(), context.steps().size());
}

TEST(CudaExecutor, GraphsWithControlFlowRunOnTheHost) {
  NEED_GPU();
  const char* text =
      "graph g(%x: f32[n,8], %c: bool[]) {\n"
      " %a: f32[n,8] = softmax(%x) {axis=-1} \"s\" kernel \"KERNEL\" \"\"\n"
      " %y: f32[n,8] = if(%c) with graph t() { return %a } with graph e() {\n  %m: f32[n,8] = neg(%a)\n return %m }\n return %y\n}";
  const auto with_kernel = [&](const char* kernel) {
    std::string t = text;
    return t.replace(t.find("KERNEL"), 6, kernel);
  };
  const Tensor x = random_tensor({3, 8}, 4);
  for (bool condition : {true, false}) {
    ExecutionContext context(engine_of(with_kernel("cuda.softmax")));
    context.set_input("x", x);
    context.set_input("c", Tensor::scalar(condition));
    for (int run = 0; run < 2; ++run) {
      context.run();
      expect_near(context.output(0), on_cpu(with_kernel("ref.softmax"), {x, Tensor::scalar(condition)})[0]);
    }
    ASSERT_FALSE(context.fallbacks().empty());
    EXPECT_NE(context.fallbacks().back().find("1 of its kernels run on the GPU"), std::string::npos) << context.fallbacks().back();
  }
}

}  // namespace
}  // namespace tokamak
#endif
