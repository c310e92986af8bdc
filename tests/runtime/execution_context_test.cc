#include "runtime/execution_context.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <thread>

#include "backends/cpu/thread_pool.h"
#include "ir/text.h"
#include "tests/support/allocations.h"
#include "tests/support/message_of.h"
#include "tokamak/c_api.h"

namespace tokamak {
namespace {

using test::message_of;

std::shared_ptr<const Engine> engine_of(const char* text, EngineInfo info = {}) {
  return std::make_shared<Engine>(ir::parse(text), std::move(info));
}

constexpr const char* kNet =
    "graph main(%x: f32[n,4]) {\n"
    " %w = const f32[4,3] {1,2,3,4,5,6,7,8,9,10,11,12}\n"
    " %a = matmul(%x, %w)\n %b = relu(%a)\n %s = reshape(%b) {shape=<n,3,1>}\n %c = add(%b, %a)\n return %c, %s\n}";

TEST(ExecutionContext, RunsSeveralShapesAndKeepsPlans) {
  ExecutionContext context(engine_of(kNet));
  for (int64_t n : {1, 3, 1, 2, 3}) {
    Tensor x = Tensor::zeros(DType::F32, {n, 4});
    for (int64_t i = 0; i < n * 4; ++i) x.data<float>()[i] = static_cast<float>(i % 5 - 2);
    context.set_input("x", x);
    context.run();
    const Tensor& c = context.output(0);
    ASSERT_EQ(c.shape(), (Shape{n, 3}));
    EXPECT_EQ(context.output(1).shape(), (Shape{n, 3, 1}));
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < 3; ++j) {
        float a = 0;
        for (int64_t k = 0; k < 4; ++k) a += x.data<float>()[i * 4 + k] * static_cast<float>(k * 3 + j + 1);
        EXPECT_FLOAT_EQ(c.data<float>()[i * 3 + j], std::max(a, 0.0f) + a);
      }
  }
}

// A batch of nothing divides by nothing.
TEST(ExecutionContext, EmptyTensors) {
  const struct {
    const char* text;
    Shape input, output;
    double value;
  } cases[] = {
      {"graph g(%x: f32[n,4]) {\n %w = const f32[4,3] splat {1}\n %y = matmul(%x, %w)\n return %y\n}", {0, 4}, {0, 3}, 0},
      {"graph g(%x: f32[m,n]) {\n %w = const f32[4,0] {}\n %y = matmul(%x, %w)\n return %y\n}", {3, 4}, {3, 0}, 0},
      {"graph g(%x: f32[m,n]) {\n %w = const f32[0,3] {}\n %y = matmul(%x, %w)\n return %y\n}", {2, 0}, {2, 3}, 0},
      {"graph g(%x: f32[n,2,8,8]) {\n %w = const f32[4,2,3,3] splat {1}\n %y = conv(%x, %w)\n return %y\n}", {0, 2, 8, 8}, {0, 4, 6, 6}, 0},
      {"graph g(%x: f32[m,n]) {\n %y = reduce_sum(%x) {axes=[1], keepdims=0}\n return %y\n}", {3, 0}, {3}, 0},
      {"graph g(%x: f32[m,n]) {\n %y = softmax(%x) {axis=-1}\n return %y\n}", {3, 0}, {3, 0}, 0},
      {"graph g(%x: f32[m,n]) {\n %s = const f32[0] {}\n %y = layer_norm(%x, %s) {axis=-1}\n return %y\n}", {3, 0}, {3, 0}, 0},
      {"graph g(%x: f32[m,n]) {\n %p = const f32[3,2] splat {7}\n %y = concat(%x, %p) {axis=1}\n return %y\n}", {3, 0}, {3, 2}, 7},
      {"graph g(%x: f32[m,n]) {\n %y = transpose(%x) {perm=[1,0]}\n return %y\n}", {3, 0}, {0, 3}, 0},
      {"graph g(%x: f32[m,n]) {\n %a = relu(%x)\n %y = add(%a, %x)\n return %y\n}", {3, 0}, {3, 0}, 0},
  };
  for (const auto& c : cases) {
    ExecutionContext context(engine_of(c.text));
    context.set_input("x", Tensor::zeros(DType::F32, c.input));
    context.run();
    const Tensor& y = context.output(0);
    ASSERT_EQ(y.shape(), c.output) << c.text;
    for (int64_t i = 0; i < y.count(); ++i) EXPECT_EQ(y.data<float>()[i], c.value) << c.text;
  }
}

TEST(ExecutionContext, OutputsStayUntilTheNextRun) {
  ExecutionContext context(engine_of(kNet));
  context.set_input("x", Tensor::zeros(DType::F32, {2, 4}));
  context.run();
  context.set_input("x", Tensor::zeros(DType::F32, {5, 4}));  // not run yet
  EXPECT_EQ(context.output(0).shape(), (Shape{2, 3}));
  context.prepare();  // the memory now belongs to the new shapes
  EXPECT_NE(message_of([&] { context.output(0); }).find("before run"), std::string::npos);
  context.run();
  EXPECT_EQ(context.output(0).shape(), (Shape{5, 3}));
}

TEST(ExecutionContext, ErrorsSayWhatWasExpected) {
  EngineInfo info;
  info.profiles = {{{"x", {1, 4}, {2, 4}, {8, 4}}}};
  ExecutionContext context(engine_of(kNet, info));
  EXPECT_NE(message_of([&] { context.run(); }).find("input \"x\" (f32[n,4]) was not set"), std::string::npos);
  EXPECT_NE(message_of([&] { context.output(0); }).find("before run"), std::string::npos);
  EXPECT_NE(message_of([&] { context.set_input("y", Tensor::zeros(DType::F32, {1, 4})); }).find("the inputs are: x"), std::string::npos);
  EXPECT_NE(message_of([&] {
              context.set_input("x", Tensor::zeros(DType::F64, {1, 4}));
            }).find("expected elements of f32, found f64"),
            std::string::npos);
  EXPECT_NE(message_of([&] { context.set_input("x", Tensor::zeros(DType::F32, {4})); }).find("expected f32[n,4] (2 dimensions)"),
            std::string::npos);
  EXPECT_NE(message_of([&] { context.set_input("x", Tensor::zeros(DType::F32, {1, 5})); }).find("dimension 1 is 5"), std::string::npos);
  EXPECT_NE(message_of([&] { context.set_input("x", Tensor::zeros(DType::F32, {9, 4})); }).find("accepts 1 to 8"), std::string::npos);
  EXPECT_NE(message_of([&] { ExecutionContext c(engine_of(kNet), {.profile = 2}); }).find("profile 2 does not exist"), std::string::npos);
}

TEST(ExecutionContext, MemoryLimitIsRefusedWithTheNumberThatWouldDo) {
  ExecutionContext context(engine_of(kNet), {.memory_limit_bytes = 64});
  context.set_input("x", Tensor::zeros(DType::F32, {100, 4}));
  const std::string message = message_of([&] { context.run(); });
  const size_t at = message.find("a limit of ");
  ASSERT_NE(at, std::string::npos) << message;
  const int64_t enough = std::stoll(message.substr(at + 11));
  ExecutionContext roomy(engine_of(kNet), {.memory_limit_bytes = enough});
  roomy.set_input("x", Tensor::zeros(DType::F32, {100, 4}));
  roomy.run();
  EXPECT_EQ(roomy.memory().arena_bytes, enough);
}

TEST(ExecutionContext, SteadyStateAllocatesNothing) {
  if (test::allocations() < 0) GTEST_SKIP() << "the sanitizer owns the allocator";
  ExecutionContext context(engine_of(kNet));
  const Tensor x = Tensor::zeros(DType::F32, {5, 4}), y = Tensor::zeros(DType::F32, {5, 4});
  for (int i = 0; i < 3; ++i) {
    context.set_input("x", i & 1 ? x : y);
    context.run();
  }
  const int64_t before = test::allocations();
  for (int i = 0; i < 100; ++i) context.run();
  EXPECT_EQ(test::allocations() - before, 0);
  void* volatile proof = std::malloc(1);
  std::free(proof);
  EXPECT_GT(test::allocations(), before) << "the counter does not count";
}

TEST(ExecutionContext, TwoContextsOnTwoThreads) {
  const auto engine = engine_of(kNet);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      ExecutionContext context(engine);
      for (int round = 0; round < 200; ++round) {
        Tensor x = Tensor::zeros(DType::F32, {1 + round % 3, 4});
        x.data<float>()[0] = static_cast<float>(t + 1);
        context.set_input("x", x);
        context.run();
        if (context.output(0).data<float>()[2] != 6.0f * static_cast<float>(t + 1)) ++wrong;
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong, 0);
}

TEST(ExecutionContext, DataDependentShapesAndControlFlow) {
  ExecutionContext context(
      engine_of("graph main(%x: f32[n], %k: i64[]) {\n"
                " %nz = nonzero(%x)\n"
                " %zero = const f32[] {0}\n %yes = const bool[] {1}\n"
                " %sum: f32[], %all: f32[_0] = loop(%k, %yes, %zero)\n"
                "  with graph body(%i: i64[], %c: bool[], %acc: f32[]) {\n"
                "   %f: f32[] = cast(%i) {to=f32}\n   %next: f32[] = add(%acc, %f)\n   return %c, %next, %next\n  }\n"
                " return %nz, %sum, %all\n}"));
  context.set_input("x", Tensor::of<float>({4}, {0, 2, 0, 3}));
  for (int64_t k : {4, 0, 2}) {
    context.set_input("k", Tensor::scalar<int64_t>(k));
    context.run();
    EXPECT_EQ(context.output(0).to_ints(), (std::vector<int64_t>{1, 3}));
    EXPECT_FLOAT_EQ(context.output(1).data<float>()[0], static_cast<float>(k * (k - 1) / 2));
    EXPECT_EQ(context.output(2).shape(), (Shape{k}));
  }
}

TEST(ExecutionContext, WeightsThatNobodyPackedArePackedWhenBound) {
  const std::string net =
      "graph main(%x: f32[1,2,6,5]) {\n %w = const f32[3,2,2,1] {1,2,3,4,5,6,7,8,9,10,11,12}\n"
      " %y: f32[1,3,5,5] = conv(%x, %w) {group=1, pads=[0,0,0,0], strides=[1,1]} KERNEL\n return %y\n}";
  std::vector<Tensor> results;
  for (const char* kernel : {"", "kernel \"ref.conv\" \"\""}) {
    std::string text = net;
    ExecutionContext context(engine_of(text.replace(text.find("KERNEL"), 6, kernel).c_str()));
    Tensor x = Tensor::zeros(DType::F32, {1, 2, 6, 5});
    for (int i = 0; i < 60; ++i) x.data<float>()[i] = static_cast<float>(i % 11);
    context.set_input("x", x);
    context.run();
    results.push_back(context.output(0).clone());
  }
  for (int64_t i = 0; i < results[0].count(); ++i) EXPECT_FLOAT_EQ(results[0].data<float>()[i], results[1].data<float>()[i]);
}

TEST(CApi, StatusAndMessage) {
  tk_engine* engine = nullptr;
  EXPECT_EQ(tk_engine_load("/no/such/file.engine", &engine), TK_NOT_FOUND);
  EXPECT_NE(std::string(tk_last_error()).find("/no/such/file.engine"), std::string::npos);
  EXPECT_EQ(tk_engine_load(nullptr, &engine), TK_INVALID_ARGUMENT);
  EXPECT_EQ(engine, nullptr);
  tk_engine_free(nullptr);
  tk_context_free(nullptr);
}

}  // namespace
}  // namespace tokamak
