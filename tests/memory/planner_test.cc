#include "memory/planner.h"

#include <gtest/gtest.h>

#include <random>

namespace tokamak::memory {
namespace {

void expect_valid(const std::vector<Lifetime>& lifetimes, const Layout& layout) {
  ASSERT_EQ(layout.offsets.size(), lifetimes.size());
  for (size_t i = 0; i < lifetimes.size(); ++i) {
    EXPECT_EQ(layout.offsets[i] % kAlignment, 0);
    EXPECT_LE(layout.offsets[i] + lifetimes[i].size_bytes, layout.arena_bytes);
    for (size_t j = 0; j < i; ++j) {
      const bool in_time = lifetimes[i].first <= lifetimes[j].last && lifetimes[j].first <= lifetimes[i].last;
      const bool in_space = layout.offsets[i] < layout.offsets[j] + lifetimes[j].size_bytes &&
                            layout.offsets[j] < layout.offsets[i] + lifetimes[i].size_bytes;
      EXPECT_FALSE(in_time && in_space) << "buffers " << i << " and " << j << " overlap";
    }
  }
  EXPECT_GE(layout.arena_bytes, layout.lower_bound_bytes);
}

TEST(MemoryPlanner, Empty) {
  const Layout layout = plan({});
  EXPECT_EQ(layout.arena_bytes, 0);
  EXPECT_EQ(layout.lower_bound_bytes, 0);
}

TEST(MemoryPlanner, ChainReusesTwoBuffers) {
  std::vector<Lifetime> chain;
  for (int i = 0; i < 10; ++i) chain.push_back({1024, i, i + 1});
  const Layout layout = plan(chain);
  expect_valid(chain, layout);
  EXPECT_EQ(layout.arena_bytes, 2048);
  EXPECT_EQ(layout.lower_bound_bytes, 2048);
}

TEST(MemoryPlanner, RandomLifetimesNeverOverlapAndStayNearTheBound) {
  std::mt19937 random(7);
  double worst = 1;
  for (int round = 0; round < 50; ++round) {
    std::vector<Lifetime> lifetimes;
    for (int i = 0; i < 60; ++i) {
      const int first = static_cast<int>(random() % 50);
      lifetimes.push_back({static_cast<int64_t>(random() % 100000), first, first + static_cast<int>(random() % 6)});
    }
    const Layout layout = plan(lifetimes);
    expect_valid(lifetimes, layout);
    worst = std::max(worst, static_cast<double>(layout.arena_bytes) / static_cast<double>(layout.lower_bound_bytes));
  }
  EXPECT_LT(worst, 1.5);
}

}  // namespace
}  // namespace tokamak::memory
