#include "tune/timing_cache.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"

namespace tokamak::tune {
namespace {

struct TimingCacheTest : testing::Test {
  std::string path = testing::TempDir() + "tokamak_timing_cache_" + testing::UnitTest::GetInstance()->current_test_info()->name();
  void SetUp() override { std::filesystem::remove(path); }
  void TearDown() override { std::filesystem::remove(path); }
};

TEST_F(TimingCacheTest, TimesSurviveTheFile) {
  TimingCache first;
  EXPECT_DOUBLE_EQ(first.insert("cpu | conv | a", 12.3456), 12.346);
  first.save(path);
  TimingCache second;
  second.insert("cpu | conv | b", 7);
  second.save(path);  // merges
  TimingCache third;
  third.merge_file(path);
  EXPECT_EQ(third.size(), 2u);
  EXPECT_EQ(third.find("cpu | conv | a"), 12.346);
  EXPECT_EQ(third.find("cpu | conv | b"), 7.0);
  EXPECT_EQ(third.find("cpu | conv | c"), std::nullopt);
}

// Times of an older version were taken of other kernels: they are measured anew, and the file is replaced.
TEST_F(TimingCacheTest, AnotherVersionAddsNothing) {
  write_file_atomic(path, "# tokamak timing cache 1\n5000\tcpu | conv | a\n");
  TimingCache cache;
  cache.merge_file(path);
  EXPECT_EQ(cache.size(), 0u);
  cache.insert("cpu | conv | b", 1);
  cache.save(path);
  TimingCache again;
  again.merge_file(path);
  EXPECT_EQ(again.size(), 1u);
}

TEST_F(TimingCacheTest, RefusesOtherFilesAndBrokenLines) {
  for (const char* text :
       {"hello\n", "# tokamak timing cache 2\nfive\tkey\n", "# tokamak timing cache 2\n-5\tkey\n", "# tokamak timing cache 2\n5 key\n"}) {
    write_file_atomic(path, text);
    TimingCache cache;
    EXPECT_THROW(cache.merge_file(path), Error) << text;
  }
}

}  // namespace
}  // namespace tokamak::tune
