#include "llm/cache_budget.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace tokamak::llm {
namespace {

constexpr int64_t kMega = 1 << 20, kGiga = kMega << 10;

CacheBudget budget(int64_t free) { return {"GPU", free, 8 * kGiga, 2 * kGiga, 100 * kMega, kMega, 128 * kMega, 1000 * 128 * kMega}; }

TEST(CacheBudget, TakesWhatAllSequencesNeedAsFarAsMemoryGoes) {
  const int64_t on_80 = cache_bytes(budget(80 * kGiga), 0);
  EXPECT_GT(on_80, 64 * kGiga);
  EXPECT_LT(on_80, 80 * kGiga - budget(0).weights - budget(0).activations - budget(0).arrays);
  EXPECT_EQ(on_80 % kMega, 0);
  EXPECT_EQ(cache_bytes(budget(800 * kGiga), 0), 1000 * 128 * kMega);
  EXPECT_EQ(cache_bytes(budget(11 * kGiga), 0), (11 * kGiga - 10 * kGiga - 612 * kMega) / 20 * 19 / kMega * kMega);
  EXPECT_EQ(cache_bytes(budget(80 * kGiga), 300 * kMega + 5), 300 * kMega);
}

std::string refusal(int64_t free, int64_t wanted) {
  try {
    cache_bytes(budget(free), wanted);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::ResourceExhausted);
    return e.what();
  }
  return "accepted";
}

TEST(CacheBudget, SaysWhatDoesNotFit) {
  EXPECT_EQ(cache_bytes(budget(10 * kGiga + 228 * kMega), 0), 128 * kMega) << "just one sequence";
  const std::string problem = refusal(10 * kGiga + 227 * kMega, 0);
  for (const int64_t part : {8 * kGiga, 2 * kGiga, 100 * kMega, 128 * kMega, 10 * kGiga + 227 * kMega})
    EXPECT_NE(problem.find(std::to_string(part)), problem.npos) << problem;
  EXPECT_NE(problem.find("are 1048576 bytes more"), problem.npos) << problem;
  EXPECT_NE(refusal(5 * kGiga, 0).find("of weights"), std::string::npos);
  EXPECT_NE(refusal(12 * kGiga, 4 * kGiga).find("KV cache of 4294967296 are"), std::string::npos);
  EXPECT_NE(refusal(80 * kGiga, 127 * kMega).find("does not hold one sequence"), std::string::npos);
}

}  // namespace
}  // namespace tokamak::llm
