#include "runtime/size_choices.h"

#include <gtest/gtest.h>

#include "ir/text.h"
#include "runtime/bind.h"

namespace tokamak {
namespace {

TEST(SizeChoices, TextAndBack) {
  const std::vector<SizeChoice> table{{1, "a.x", ""}, {4096, "b.y", "rows=2,split=1"}, {65536, "a.x", "tile 64x64"}};
  const auto read = parse_size_choices(to_text(table));
  ASSERT_EQ(read.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(read[i].size, table[i].size);
    EXPECT_EQ(read[i].kernel, table[i].kernel);
    EXPECT_EQ(read[i].tactic, table[i].tactic);
  }
  for (const char* wrong : {"", "x", "1", "1 a", "-1 a b", "1  b", "1 a b; ; 2 c d", "99999999999999999999 a b"})
    EXPECT_THROW(parse_size_choices(wrong), Error) << wrong;
}

TEST(SizeChoices, NearestByRatio) {
  std::vector<SizeChoice> table{{100, "a", ""}, {400, "b", ""}, {6400, "c", ""}};
  const auto order = [&](int64_t size) {
    sort_by_nearness(table, size);
    std::string names;
    for (const SizeChoice& c : table) names += c.kernel;
    return names;
  };
  EXPECT_EQ(order(1), "abc");
  EXPECT_EQ(order(200), "abc");  // as near to both: the smaller
  EXPECT_EQ(order(201), "bac");
  EXPECT_EQ(order(1 << 20), "cba");
  EXPECT_EQ(order(0), "abc");
}

TEST(SizeChoices, TheNearestThatAcceptsIsMade) {
  const auto graph = ir::parse(
      "graph g(%x: f32[n,4]) {\n %y: f32[n,4] = softmax(%x) {axis=-1} \"s\" kernel \"by_size\" \"4 ref.softmax ; 4000 avx2.softmax \"\n "
      "return %y\n}");
  const auto made = [&](int64_t n) {
    return std::string(make_kernel(make_view(*graph->nodes().front(), bind_shapes(*graph, {{n, 4}}, 1), 1)).name);
  };
  EXPECT_EQ(made(2), "ref.softmax");
  EXPECT_EQ(made(2000), "avx2.softmax");
  graph->nodes().front()->tactic = "4 no.such ";
  EXPECT_THROW(made(2), Error);
  graph->nodes().front()->tactic = "rubbish";
  EXPECT_THROW(made(2), Error);
}

}  // namespace
}  // namespace tokamak
