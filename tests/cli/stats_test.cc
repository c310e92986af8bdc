#include "cli/stats.h"

#include <gtest/gtest.h>

namespace tokamak::cli {
namespace {

TEST(CliStats, NearestRank) {
  const std::vector<double> v = {15, 20, 35, 40, 50};
  EXPECT_EQ(percentile(v, 5), 15);
  EXPECT_EQ(percentile(v, 30), 20);
  EXPECT_EQ(percentile(v, 40), 20);
  EXPECT_EQ(percentile(v, 50), 35);
  EXPECT_EQ(percentile(v, 100), 50);
  EXPECT_EQ(percentile(v, 0), 15);
  EXPECT_EQ(percentile({}, 50), 0);
}

TEST(CliStats, Summary) {
  const double percents[] = {90, 99};
  const Summary s = summarize({4, 1, 3, 2}, percents);
  EXPECT_EQ(s.min, 1);
  EXPECT_EQ(s.max, 4);
  EXPECT_EQ(s.mean, 2.5);
  EXPECT_EQ(s.median, 2.5);
  EXPECT_EQ(s.percentiles, (std::vector<double>{4, 4}));
  EXPECT_NEAR(s.coefficient_of_variation, 1.1180339887 / 2.5, 1e-9);
  EXPECT_EQ(summarize({3, 1, 2}).median, 2);
  EXPECT_EQ(summarize({}, percents).percentiles.size(), 2u);
}

}  // namespace
}  // namespace tokamak::cli
