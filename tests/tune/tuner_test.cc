#include "tune/tuner.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "backends/cpu/thread_pool.h"
#include "base/file.h"
#include "ir/text.h"
#include "runtime/size_choices.h"

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
    TunerOptions options;
    options.opt_level = 5;  // so that there is a second kernel, the reference, on any CPU
    const TuningPoint point{bind_shapes(graph, {{8, 64}}, 1), {}};
    tune(graph, {&point, 1}, pool, cache, options, report);
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

// Timed for two sizes with different winners (by an edited cache), a node keeps both kernels, and each size gets its own.
TEST(Tuner, SeveralSizesGiveATable) {
  const auto graph_of = [] { return ir::parse("graph g(%x: f32[n,64]) {\n %y = softmax(%x) {axis=-1}\n return %y\n}"); };
  ThreadPool pool(1);
  TunerOptions options;
  options.opt_level = 5;  // so that there is a second kernel, the reference, on any CPU
  const auto tuned = [&](TimingCache& cache) {
    auto graph = graph_of();
    BuildReport report;
    const TuningPoint points[] = {{bind_shapes(*graph, {{2, 64}}, 1), {}}, {bind_shapes(*graph, {{512, 64}}, 1), {}}};
    tune(*graph, points, pool, cache, options, report);
    return graph;
  };
  TimingCache measured;
  tuned(measured);
  std::istringstream lines(text_of(measured));
  std::string edited;
  for (std::string line; std::getline(lines, line); edited += line + "\n") {
    const size_t tab = line.find('\t');
    if (tab == std::string::npos) continue;
    const bool is_small = line.find("f32[2,64]") != std::string::npos, is_ref = line.find("ref.softmax") != std::string::npos;
    const bool is_avx2 = line.find("avx2.softmax") != std::string::npos;
    line = ((is_small && is_ref) || (!is_small && is_avx2) ? "1" : "1000000") + line.substr(tab);
  }
  const std::string path = testing::TempDir() + "tokamak_tuner_sizes";
  write_file_atomic(path, std::string_view(edited));
  TimingCache cache;
  cache.merge_file(path);
  std::filesystem::remove(path);
  const auto graph = tuned(cache);
  const ir::Node& node = *graph->nodes().front();
  ASSERT_EQ(node.kernel, kBySize);
  EXPECT_EQ(node.tactic, "128 ref.softmax ; 32768 avx2.softmax ");
  const auto made = [&](int64_t n) { return make_kernel(make_view(node, bind_shapes(*graph, {{n, 64}}, 1), 1)).name; };
  EXPECT_EQ(made(1), "ref.softmax");
  EXPECT_EQ(made(4096), "avx2.softmax");
}

}  // namespace
}  // namespace tokamak::tune
