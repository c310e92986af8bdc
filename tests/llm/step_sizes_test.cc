#include "llm/step_sizes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <tuple>

namespace tokamak::llm {
namespace {

TEST(StepSizes, HoldTheStepAndWasteLittle) {
  for (const int max_seqs : {1, 5, 16, 64, 1000, 1024})
    for (int tokens = 1; tokens <= 9000; tokens += tokens < 300 ? 1 : 37)
      for (const int seqs : {1, 2, 16, 17, 100, 300, 1000}) {
        if (seqs > std::min(tokens, max_seqs)) continue;
        for (const int rows : {0, 1, 3, seqs}) {
          if (rows > seqs) continue;
          const StepSizes sizes = padded_sizes(tokens, rows, seqs, max_seqs);
          EXPECT_GE(sizes.tokens, tokens);
          EXPECT_GE(sizes.rows, rows);
          EXPECT_GE(sizes.seqs, seqs);
          EXPECT_LE(sizes.seqs, padded_seqs(max_seqs));
          EXPECT_EQ(sizes.tokens == sizes.seqs, tokens == seqs && rows == seqs) << tokens << " " << rows << " " << seqs;
          EXPECT_EQ(sizes.rows == 0, rows == 0);
          EXPECT_LE(sizes.tokens, std::max({2 * tokens, tokens + tokens / 8 + 2, 18}));
          EXPECT_TRUE(tokens <= 128 || tokens == seqs || sizes.tokens <= tokens + tokens / 8 + 2);
        }
      }
}

TEST(StepSizes, AreFew) {
  std::set<int> decode;
  for (int n = 1; n <= 1024; ++n) decode.insert(decode_bucket(n));
  EXPECT_LE(decode.size(), 30u);
  EXPECT_EQ(decode_bucket(1), 1);
  EXPECT_EQ(decode_bucket(2), 2);
  EXPECT_EQ(decode_bucket(8), 8);
  EXPECT_EQ(decode_bucket(64), 64);
  EXPECT_EQ(decode_bucket(1000), 1024);
  // Steps that fill their budget, as more and more sequences decode beside the prompts.
  std::set<std::tuple<int, int, int>> mixed;
  for (int rows = 0; rows <= 1000; ++rows) {
    const StepSizes sizes = padded_sizes(8192, rows, std::min(1000, rows + 9), 1000);
    mixed.insert({sizes.tokens, sizes.rows, sizes.seqs});
  }
  EXPECT_LE(mixed.size(), 10u);
  const auto usual = usual_sizes(8192, 1000);
  EXPECT_LE(usual.size(), 60u);
  for (const auto& [tokens, rows, seqs] : mixed)
    EXPECT_TRUE(std::ranges::find(usual, StepSizes{tokens, rows, seqs}) != usual.end()) << tokens << " " << rows << " " << seqs;
  EXPECT_EQ(usual_sizes(1, 1).size(), 1u);
}

}  // namespace
}  // namespace tokamak::llm
