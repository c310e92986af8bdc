// The search for kernels that do well together, against a clock that says what each combination takes.

#include "tune/in_graph.h"

#include <gtest/gtest.h>

#include <map>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/thread_pool.h"
#include "ir/text.h"

namespace tokamak::tune {
namespace {

// The time of a graph whose kernels have the tactics "0", "1", ... : looked up by all of them, "0 2 1"; nothing: cannot be run.
using Times = std::map<std::string, double>;

class FakeClock final : public GraphClock {
 public:
  FakeClock(const Times& times, std::vector<std::string>& asked) : times_(times), asked_(asked) {}
  std::optional<double> us(std::span<const PlacedChoice> nodes) override {
    std::string all;
    for (const PlacedChoice& p : nodes) all += (all.empty() ? "" : " ") + p.choice->candidate().tactic;
    asked_.push_back(all);
    const auto found = times_.find(all);
    return found == times_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  const Times& times_;
  std::vector<std::string>& asked_;
};

class InGraph : public testing::Test {
 protected:
  InGraph() : graph(ir::parse("graph g(%x: f32[4,8]) {\n %y = softmax(%x) {axis=-1}\n %z = relu(%y)\n return %z\n}")) {}

  // A node for each list: how long its candidates take alone.
  void add(std::vector<double> us) {
    ir::Node* node = graph->nodes_snapshot().at(choices.size());
    auto& c = *choices.emplace_back(std::make_unique<Choice>());
    c.signature = "node " + std::to_string(choices.size());
    c.view = make_view(*node, bind_shapes(*graph, {{4, 8}}, 1), 1);
    for (size_t i = 0; i < us.size(); ++i) c.candidates.push_back({cpu::kernels_for(node->op().name).back(), std::to_string(i)});
    c.us = std::move(us);
    nodes.push_back({node, &c});
  }
  void choose(const Times& times, bool refuse = false) {
    asked.clear();
    choose_in_graph(
        nodes, "machine", cache, pool,
        [&]() -> std::unique_ptr<GraphClock> {
          ++clocks;
          return refuse ? nullptr : std::make_unique<FakeClock>(times, asked);
        },
        report);
  }
  std::string chosen() const {
    std::string all;
    for (const auto& c : choices) all += (all.empty() ? "" : " ") + c->candidate().tactic;
    return all;
  }

  std::unique_ptr<ir::Graph> graph;
  std::vector<std::unique_ptr<Choice>> choices;
  std::vector<PlacedChoice> nodes;
  ThreadPool pool{1};
  TimingCache cache;
  BuildReport report;
  std::vector<std::string> asked;
  int clocks = 0;
};

TEST_F(InGraph, TakesWhatMakesTheGraphFaster) {
  add({10, 11, 12});
  add({5, 6});
  choose({{"0 0", 16}, {"1 0", 15}, {"2 0", 17}, {"1 1", 14}, {"0 1", 20}});
  EXPECT_EQ(chosen(), "1 1");
  EXPECT_EQ(report.notes, (std::vector<std::string>{"kernels chosen in the whole graph: 16 became 14 us a run"}));
}

// What was worse at first is tried again after another exchange, unless it was hopeless.
TEST_F(InGraph, TriesAgainAfterAnExchange) {
  add({10, 11, 12});
  add({5, 6});
  choose({{"0 0", 16}, {"1 0", 16.1}, {"2 0", 18}, {"0 1", 15}, {"1 1", 14}, {"2 1", 13}});
  EXPECT_EQ(chosen(), "1 1");
  EXPECT_EQ(std::count(asked.begin(), asked.end(), "2 1"), 0);
}

TEST_F(InGraph, LeavesWhatMeasurementsCannotTellApart) {
  add({10, 11});
  choose({{"0", 1000}, {"1", 997}});
  EXPECT_EQ(chosen(), "0");
  EXPECT_TRUE(report.notes.empty());
}

// Far slower alone, or too small a part of the graph: not tried. Neither is what cannot be run taken.
TEST_F(InGraph, TriesOnlyRivals) {
  add({1000, 1301, 1290});
  add({10, 10});
  choose({{"0 0", 900}, {"1 0", 1}, {"0 1", 1}});
  EXPECT_EQ(chosen(), "0 0");
  EXPECT_EQ(asked, (std::vector<std::string>{"0 0", "2 0"}));
}

TEST_F(InGraph, TheCacheKnowsGraphs) {
  add({10, 11});
  const Times times{{"0", 16}, {"1", 15}};
  choose(times);
  EXPECT_EQ(report.timed, 2);
  choices[0]->chosen = 0;
  choose(times);
  EXPECT_EQ(chosen(), "1");
  EXPECT_EQ(clocks, 1);
  EXPECT_EQ(report.timed, 2);
}

TEST_F(InGraph, WithoutAClockNothingChanges) {
  add({10, 11});
  choose({{"0", 16}, {"1", 15}}, true);
  EXPECT_EQ(chosen(), "0");
  EXPECT_EQ(clocks, 1);
}

}  // namespace
}  // namespace tokamak::tune
