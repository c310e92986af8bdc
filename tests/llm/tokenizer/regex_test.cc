#include "llm/tokenizer/regex.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"

namespace tokamak::llm::tokenizer {
namespace {

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  std::vector<std::string> found;
  Regex(pattern).for_each_match(text, [&](size_t begin, size_t end) { found.emplace_back(text.substr(begin, end - begin)); });
  return found;
}

using Strings = std::vector<std::string>;

// What Oniguruma gives for each; where PCRE2 alone would differ.
TEST(Regex, MeansWhatOnigurumaMeans) {
  EXPECT_EQ(matches(R"(\h+)", "xyz 1f aG"), (Strings{"1f", "a"}));           // hexadecimal digits, not blanks
  EXPECT_EQ(matches(R"(\p{N}{1,3}+)", "12345 6"), (Strings{"12345", "6"}));  // not possessive: the whole repeats
  EXPECT_EQ(matches(R"(a{,2}b)", "aaab"), (Strings{"aab"}));                 // no lower bound
  EXPECT_EQ(matches(R"([a-z&&[^aeiou]]+)", "hello"), (Strings{"h", "ll"}));  // intersection
  EXPECT_EQ(matches(R"([a[0-9]]+)", "ba12"), (Strings{"a12"}));              // nested class
  EXPECT_EQ(matches(R"(\w+)", "a\u0301b c"), (Strings{"a\u0301b", "c"}));    // marks are of a word
  EXPECT_EQ(matches(R"(^.)", "a\nb"), (Strings{"a", "b"}));                  // ^ at every line
  EXPECT_EQ(matches(R"((?m:a.b))", "a\nb"), (Strings{"a\nb"}));              // m: the dot matches newlines
  EXPECT_EQ(matches(R"(\p{Han}+)", "中文。かな"), (Strings{"中文"}));        // script, without extensions
  EXPECT_EQ(matches(R"(\s+)", "a\u180Eb\u3000c"), (Strings{"\u3000"}));      // White_Space only
  EXPECT_EQ(matches(R"([\w-]+)", "a-b c"), (Strings{"a-b", "c"}));
  EXPECT_EQ(matches(R"([^\S\n]+)", "a \t\nb"), (Strings{" \t"}));
  EXPECT_EQ(matches(R"(\p{Uppercase_Letter})", "aBc"), (Strings{"B"}));
  EXPECT_EQ(matches(R"((?i:'S)|\x{61}\u0062)", "'s ab"), (Strings{"'s", "ab"}));
  EXPECT_EQ(matches(R"([]a]+)", "]a["), (Strings{"]a"}));
}

TEST(Regex, EmptyMatchesMoveOn) {
  size_t count = 0;
  Regex("x*").for_each_match("aéx", [&](size_t, size_t) { ++count; });
  EXPECT_EQ(count, 3u);  // before a, before é, the x; the one at the end touches it
}

TEST(Regex, WhatIsNotSupportedIsNamed) {
  for (const char* pattern : {"(", "[a", "a\\", "(?~x)", "(*FAIL)", "\\p{Nonsense}", "\\x{zz}", "(?<=a+)b"}) {
    try {
      Regex regex(pattern);
      ADD_FAILURE() << pattern;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::Unsupported) << pattern;
      EXPECT_NE(std::string(e.what()).find(pattern), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace tokamak::llm::tokenizer
