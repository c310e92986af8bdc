#include "cli/args.h"

#include <gtest/gtest.h>

namespace tokamak::cli {
namespace {

TEST(CliArgs, Sizes) {
  EXPECT_EQ(parse_size_bytes("4096"), 4096);
  EXPECT_EQ(parse_size_bytes("2", 1 << 20), 2 << 20);
  EXPECT_EQ(parse_size_bytes("1G", 1 << 20), int64_t{1} << 30);
  EXPECT_EQ(parse_size_bytes("1.5K"), 1536);
  EXPECT_EQ(parse_size_bytes("3MiB"), 3 << 20);
  for (const char* bad : {"", "G", "1T", "1 G", "-1", "nan", "99999999999999999999G"}) EXPECT_THROW(parse_size_bytes(bad), Error) << bad;
}

TEST(CliArgs, Shapes) {
  const NamedShapes shapes = parse_shapes("ids:1x128,'a:b':2,n:scalar");
  ASSERT_EQ(shapes.size(), 3u);
  EXPECT_EQ(shapes[0].first, "ids");
  EXPECT_EQ(shapes[0].second, (Shape{1, 128}));
  EXPECT_EQ(shapes[1].first, "a:b");
  EXPECT_EQ(shapes[2].second, Shape{});
  EXPECT_EQ(parse_shapes("3x4").front().first, "");
  EXPECT_TRUE(parse_shapes("").empty());
  EXPECT_EQ(format_shape({1, 3, 8}), "1x3x8");
  for (const char* bad : {"a:1x", "a:-1x3", "a:1xx2", "a:3000000000x3000000000x3000000000"}) EXPECT_THROW(parse_shapes(bad), Error) << bad;
}

TEST(CliArgs, PatternsAndExactNamesFirst) {
  EXPECT_TRUE(matches("past_*", "past_3"));
  EXPECT_TRUE(matches("*_mask", "attention_mask"));
  EXPECT_FALSE(matches("*_mask", "mask_a"));
  const NamedShapes shapes = parse_shapes("*:1,x:2");
  EXPECT_EQ(*find_shape(shapes, "x"), Shape{2});
  EXPECT_EQ(*find_shape(shapes, "y"), Shape{1});
}

TEST(CliArgs, ProfilesBeginAnewWhenAnInputRepeats) {
  const auto profiles = parse_profiles({"a:1x1,1x8,4x16", "b:2", "a:8x8"});
  ASSERT_EQ(profiles.size(), 2u);
  EXPECT_EQ(profiles[0].size(), 2u);
  EXPECT_EQ(profiles[0][0].opt, (Shape{1, 8}));
  EXPECT_EQ(profiles[1][0].max, (Shape{8, 8}));
  for (const char* bad : {"a", "a:1,2", "a:2,1,3", "a:1,1x1,1"}) EXPECT_THROW(parse_profiles({bad}), Error) << bad;
}

TEST(CliArgs, NearestFindsSlipsAndNothingElse) {
  const std::vector<std::string> known = {"build", "bench", "verify", "inspect"};
  EXPECT_EQ(nearest("biuld", known), "build");
  EXPECT_EQ(nearest("inspct", known), "inspect");
  EXPECT_EQ(nearest("zzzzzz", known), "");
}

}  // namespace
}  // namespace tokamak::cli
