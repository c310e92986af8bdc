#include "llm/block_manager.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "base/error.h"

namespace tokamak::llm {
namespace {

std::vector<int32_t> counting(int n, int32_t first = 0) {
  std::vector<int32_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

TEST(BlockManager, GrowsTrimsAndReleases) {
  BlockManager manager(4, 8, false);
  BlockTable table;
  EXPECT_TRUE(manager.grow(table, 9));
  EXPECT_EQ(table.blocks.size(), 2u);
  EXPECT_EQ(manager.num_used(), 2);
  EXPECT_FALSE(manager.grow(table, 33));
  EXPECT_EQ(table.blocks.size(), 2u) << "a failed grow takes nothing";
  EXPECT_TRUE(manager.grow(table, 32));
  manager.trim(table, 8);
  EXPECT_EQ(manager.num_free(), 3);
  manager.release(table);
  EXPECT_EQ(manager.num_free(), 4);
  manager.check();
}

TEST(BlockManager, FindsFullBlocksOfAPrefixOnly) {
  BlockManager manager(8, 4, true);
  const auto tokens = counting(10);
  BlockTable table;
  manager.grow(table, 10);
  manager.register_full(table, tokens, 10);
  EXPECT_EQ(table.num_registered, 2);
  EXPECT_EQ(manager.find_prefix(tokens).num_blocks, 2);
  EXPECT_EQ(manager.find_prefix(std::span(tokens).first(7)).num_blocks, 1);
  auto other = tokens;
  other[1] = 99;  // same second block after another first one
  EXPECT_EQ(manager.find_prefix(other).num_blocks, 0);
  manager.release(table);
  EXPECT_EQ(manager.find_prefix(tokens).num_unreferenced, 2);
  BlockTable again;
  EXPECT_EQ(manager.take_prefix(tokens, 1, again), 4);
  EXPECT_EQ(manager.num_used(), 1);
  manager.check();
}

TEST(BlockManager, OneContentHasOneBlock) {
  BlockManager manager(8, 4, true);
  const auto tokens = counting(8);
  BlockTable a, b;
  manager.grow(a, 8);
  manager.grow(b, 8);
  manager.register_full(a, tokens, 8);
  EXPECT_EQ(manager.num_used(), 4);
  manager.register_full(b, tokens, 8);
  EXPECT_EQ(a.blocks, b.blocks);
  EXPECT_EQ(manager.num_used(), 2);
  manager.check();
}

TEST(BlockManager, EvictsTheLeastRecentlyUsedAndEndsBeforeBeginnings) {
  BlockManager manager(4, 4, true);
  const auto x = counting(8), y = counting(8, 100);
  for (const auto& tokens : {x, y}) {
    BlockTable table;
    ASSERT_TRUE(manager.grow(table, 8));
    manager.register_full(table, tokens, 8);
    manager.release(table);
  }
  BlockTable used;
  manager.take_prefix(x, 2, used);  // x becomes the most recent
  manager.release(used);
  BlockTable table;
  manager.grow(table, 4);
  EXPECT_EQ(manager.find_prefix(y).num_blocks, 1) << "the end of y went, its beginning stays";
  EXPECT_EQ(manager.find_prefix(x).num_blocks, 2);
  manager.grow(table, 8);
  EXPECT_EQ(manager.find_prefix(y).num_blocks, 0);
  EXPECT_EQ(manager.find_prefix(x).num_blocks, 2);
  manager.check();
}

TEST(BlockManager, ForksCopyOnWrite) {
  BlockManager manager(4, 4, false);
  BlockTable a;
  manager.grow(a, 6);
  BlockTable b = manager.fork(a);
  EXPECT_EQ(manager.num_used(), 2);
  EXPECT_TRUE(manager.is_shared(a, 6));
  const auto copy = manager.make_writable(a, 6);
  ASSERT_TRUE(copy);
  EXPECT_EQ(copy->src, b.blocks[1]);
  EXPECT_EQ(copy->dst, a.blocks[1]);
  EXPECT_FALSE(manager.is_shared(b, 6)) << "the last holder writes in place";
  EXPECT_EQ(manager.num_used(), 3);
  manager.release(a);
  manager.release(b);
  EXPECT_EQ(manager.num_free(), 4);
  manager.check();
}

TEST(BlockManager, RefusesNonsense) { EXPECT_THROW(BlockManager(0, 16, true), Error); }

// Random life over few distinct contents, checking all invariants and that what is found is what was stored.
TEST(BlockManager, InvariantsHoldUnderRandomUse) {
  std::mt19937 random(3);
  BlockManager manager(24, 4, true);
  struct Live {
    std::vector<int32_t> tokens;
    BlockTable table;
  };
  std::vector<Live> live;
  std::vector<std::vector<int32_t>> stored(24);  // contents of each block, all tokens up to its end
  for (int round = 0; round < 20000; ++round) {
    switch (random() % 4) {
      case 0: {
        Live s;
        s.tokens.resize(1 + random() % 24);
        for (auto& t : s.tokens) t = static_cast<int32_t>(random() % 2);
        const int found = manager.take_prefix(s.tokens, 100, s.table);
        for (int b = 0; b * 4 < found; ++b)
          ASSERT_EQ(stored[s.table.blocks[b]], std::vector<int32_t>(s.tokens.begin(), s.tokens.begin() + b * 4 + 4));
        if (!manager.grow(s.table, std::ssize(s.tokens))) {
          manager.release(s.table);
          break;
        }
        for (int b = found / 4; b < std::ssize(s.table.blocks); ++b)
          stored[s.table.blocks[b]].assign(s.tokens.begin(), s.tokens.begin() + std::min<int64_t>(b * 4 + 4, std::ssize(s.tokens)));
        live.push_back(std::move(s));
        break;
      }
      case 1:
        if (live.empty()) break;
        for (Live& s : live)
          if (random() % 2) manager.register_full(s.table, s.tokens, std::ssize(s.tokens));
        break;
      case 2:
        if (live.empty() || live.size() > 12) break;
        live.push_back({live.back().tokens, manager.fork(live.back().table)});
        break;
      default:
        if (live.empty()) break;
        std::swap(live[random() % live.size()], live.back());
        manager.release(live.back().table);
        live.pop_back();
    }
    ASSERT_NO_THROW(manager.check());
    for (const Live& s : live)
      for (size_t b = 0; b < s.table.blocks.size(); ++b) ASSERT_GT(manager.ref_count(s.table.blocks[b]), 0);
  }
  for (Live& s : live) manager.release(s.table);
  EXPECT_EQ(manager.num_free(), 24);
}

}  // namespace
}  // namespace tokamak::llm
