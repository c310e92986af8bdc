#include "tune/tuner.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "backends/cpu/thread_pool.h"
#include "base/file.h"
#include "ir/text.h"

namespace tokamak::tune {
namespace {

// y = x * w, tuned with `cache`; the graph holds `extra_bytes` of other constants.
struct Tuned {
  BuildReport report;
  std::string kernel, tactic;

  Tuned(TimingCache& cache, int64_t extra_bytes) {
    ir::Graph graph;
    ir::Value* x = graph.add_input("x", ir::TensorType(DType::F32, {8, 64}));
    ir::Node* product = graph.add_node("matmul", {x, graph.add_constant(Tensor::zeros(DType::F32, {64, 48}), "w")});
    ir::Node* sum = graph.add_node("reduce_sum", {graph.add_constant(Tensor::zeros(DType::F32, {extra_bytes / 4}), "other")});
    graph.set_outputs({product->output(0), sum->output(0)});
    ThreadPool pool(1);
    tune(graph, bind_shapes(graph, {{8, 64}}, 1), pool, cache, {}, report);
    kernel = product->kernel;
    tactic = product->tactic;
  }
};

std::string text_of(TimingCache& cache) {
  const std::string path = testing::TempDir() + "tokamak_tuner_test";
  std::filesystem::remove(path);
  cache.save(path);
  std::string text = read_file(path);
  std::filesystem::remove(path);
  return text;
}

TEST(Tuner, SameCacheSameChoice) {
  TimingCache cache;
  const Tuned first(cache, 4);
  ASSERT_GT(first.report.timed, 1);
  const Tuned second(cache, 4);
  EXPECT_EQ(second.report.timed, 0);
  EXPECT_GE(second.report.cached, first.report.timed);
  EXPECT_EQ(second.kernel, first.kernel);
  EXPECT_EQ(second.tactic, first.tactic);
}

// Where the constants outgrow the caches, a node's weights come from memory: another time than when they stay.
TEST(Tuner, StreamedConstantsAreTimedApart) {
  TimingCache cache;
  const Tuned small(cache, 4);
  EXPECT_EQ(text_of(cache).find(" streamed |"), std::string::npos);
  const Tuned large(cache, int64_t{64} << 20);  // more than any core's second-level cache
  EXPECT_GT(large.report.timed, 0);
  EXPECT_NE(text_of(cache).find(" streamed |"), std::string::npos);
  const Tuned again(cache, int64_t{64} << 20);
  EXPECT_EQ(again.report.timed, 0);
  EXPECT_EQ(again.kernel, large.kernel);
}

}  // namespace
}  // namespace tokamak::tune
