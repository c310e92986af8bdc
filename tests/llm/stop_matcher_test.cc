#include "llm/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace tokamak::llm {
namespace {

using Strings = std::vector<std::string>;

// Pushes pieces until a match; returns the text of each push, joined by '|', and "!index" after a match.
std::string run(const Strings& stops, const Strings& pieces, bool include = false) {
  StopMatcher matcher(stops, include);
  std::string out;
  for (const std::string& piece : pieces) {
    const auto result = matcher.push(piece);
    out += result.text + "|";
    if (result.matched) return out + "!" + std::to_string(*result.matched);
  }
  return out + matcher.finish();
}

TEST(StopMatcher, HoldsBackWhatCouldBecomeAStop) {
  EXPECT_EQ(run({"END"}, {"the E", "N", "D of"}), "the |||!0");
  EXPECT_EQ(run({"END"}, {"the E", "N", "d"}), "the ||ENd|");
  EXPECT_EQ(run({"END"}, {"the E", "N"}), "the ||EN");
  EXPECT_EQ(run({"END"}, {"EENEND"}), "EEN|!0");
}

TEST(StopMatcher, IncludesTheMatchWhenAsked) { EXPECT_EQ(run({"END"}, {"a E", "ND b"}, true), "a |END|!0"); }

TEST(StopMatcher, BordersAreNotForgotten) {
  EXPECT_EQ(run({"aab"}, {"aaab"}), "a|!0");
  EXPECT_EQ(run({"abab"}, {"aba", "abab"}), "|aba|!0");
  EXPECT_EQ(run({"\n\nHuman:"}, {"x\n", "\n\n", "\nHuman:"}), "x|\n|\n|!0");
}

TEST(StopMatcher, TheFirstToEndWinsThenTheLongest) {
  EXPECT_EQ(run({"bcd", "abc"}, {"xabcd"}), "x|!1");
  EXPECT_EQ(run({"c", "abc"}, {"xabcd"}), "x|!1");
}

TEST(StopMatcher, PassLetsTextThrough) {
  StopMatcher matcher({"END"}, false);
  EXPECT_EQ(matcher.pass("END E"), "END E");
  EXPECT_FALSE(matcher.push("ND").matched);
}

// Against the plain meaning: search the whole text.
TEST(StopMatcher, AgreesWithSearchOnRandomText) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    const auto word = [&](int max) {
      std::string s(1 + random() % max, 'a');
      for (char& c : s) c = static_cast<char>('a' + random() % 2);
      return s;
    };
    Strings stops(1 + random() % 3), pieces;
    for (auto& s : stops) s = word(6);
    std::string all;
    for (int i = 0; i < 12; ++i) all += pieces.emplace_back(word(3));

    std::string expected = all;
    size_t first_end = std::string::npos;
    for (const auto& s : stops)
      if (const size_t at = all.find(s); at != all.npos && at + s.size() < first_end) first_end = at + s.size();
    const bool matches = first_end != std::string::npos;
    if (matches) {
      size_t start = first_end;
      for (const auto& s : stops)
        if (s.size() <= first_end && all.compare(first_end - s.size(), s.size(), s) == 0) start = std::min(start, first_end - s.size());
      expected = all.substr(0, start);
    }
    StopMatcher matcher(stops, false);
    std::string text;
    bool matched = false;
    for (const auto& piece : pieces) {
      const auto result = matcher.push(piece);
      text += result.text;
      EXPECT_TRUE(expected.starts_with(text)) << "leaked";
      matched = result.matched.has_value();
      if (matched) break;
    }
    if (!matched) text += matcher.finish();
    EXPECT_EQ(matched, matches);
    EXPECT_EQ(text, expected);
  }
}

}  // namespace
}  // namespace tokamak::llm
