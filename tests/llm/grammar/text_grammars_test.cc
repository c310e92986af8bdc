// Regular expressions, choices and EBNF.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "llm/grammar/grammar.h"

namespace tokamak::llm {
namespace {

using Texts = std::vector<std::string>;

void check(const std::shared_ptr<const Grammar>& grammar, std::string_view name, const Texts& accepted, const Texts& rejected) {
  for (const std::string& text : accepted) EXPECT_TRUE(grammar->accepts(text)) << name << "\n" << text;
  for (const std::string& text : rejected) EXPECT_FALSE(grammar->accepts(text)) << name << "\n" << text;
}

template <class Make>
std::string refusal(Make make, ErrorCode code = ErrorCode::InvalidArgument) {
  try {
    make();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "";
}

TEST(RegexGrammar, Syntax) {
  const auto regex = [](const char* pattern, const Texts& accepted, const Texts& rejected) {
    check(Grammar::from_regex(pattern), pattern, accepted, rejected);
  };
  regex("", {""}, {"a"});
  regex("abc", {"abc"}, {"ab", "abcd", "xabc"});
  regex("^abc$", {"abc"}, {"xabc"});
  regex("a|bc|", {"a", "bc", ""}, {"b", "abc"});
  regex("(ab)*c+d?", {"c", "ababccd"}, {"abd", "d"});
  regex("a{3}", {"aaa"}, {"aa", "aaaa"});
  regex("a{2,}", {"aa", "aaaaaa"}, {"a"});
  regex("a{2,3}?b", {"aab", "aaab"}, {"ab", "aaaab"});
  regex("(ab|c){0,500}", {"", "abcab", std::string(500, 'c')}, {std::string(501, 'c'), "a"});
  regex("[a-cx-]+", {"a-x", "cb"}, {"d", ""});
  regex("[^a-c\\n]", {"d", "\xC3\xA9", "\xF0\x9F\x98\x80"}, {"a", "\n", "\xC3"});
  regex("[\\d_]{2}\\w\\s\\S", {"1_a x"}, {"aaa x", "11a  "});
  regex(".", {"a", "\xE4\xBD\xA0"}, {"\n", "", "ab"});
  regex("\\u00e9\\x41\\u{1F600}\\ud83d\\ude00\\.\\/\\t\\cA",
        {"\xC3\xA9"
         "A\xF0\x9F\x98\x80\xF0\x9F\x98\x80./\t\x01"},
        {});
  regex("\\p{Lu}\\p{L}+\\P{N}",
        {"\xC3\x89"
         "ab-",
         "Xy."},
        {"xy.", "Xy1"});
  regex("(?:a)(?<n>b)(?P<m>c)", {"abc"}, {});
  regex("a{,2}", {"a{,2}"}, {"aa"});
  regex("(a*)*b", {"b", "aaab"}, {"a"});
  regex("((a?){50}){50}", {"", std::string(2500, 'a')}, {std::string(2501, 'a')});
  regex("[\xC3\xA0-\xE4\xBD\xA0]", {"\xC3\xA9", "\xE4\xBD\xA0", "\xE4\xBD\x9F"}, {"a", "\xE4\xBD\xA1", "\xC3\x9F"});
}

TEST(RegexGrammar, Refusals) {
  for (const char* pattern : {"(",      ")",     "[a",  "a**",   "*a",  "\\",    "(?=a)",      "(?!a)",      "(?<=a)", "\\1",    "\\b",
                              "a{3,2}", "[z-a]", "\\q", "\\u12", "a^b", "(a$)b", "\\p{Greek}", "a{2000000}", "\xFF",   "[a-\\d]"}) {
    EXPECT_NE(refusal([&] { Grammar::from_regex(pattern); }), "") << pattern;
  }
  EXPECT_NE(refusal([&] { Grammar::from_regex(std::string(1000, '(') + std::string(1000, ')')); }), "");
  std::string nested = "a";
  for (int i = 0; i < 40; ++i) nested = "(" + nested + nested.substr(0, 0) + "){2}";
  EXPECT_NE(refusal([&] { Grammar::from_regex(nested); }, ErrorCode::ResourceExhausted), "");
  EXPECT_NE(refusal([&] { Grammar::from_regex("[]"); }), "");
}

TEST(ChoiceGrammar, OneOfThem) {
  const Texts choices = {"yes", "no", "not sure", "\xC3\xA9"};
  check(Grammar::from_choices(choices), "choices", choices, {"", "y", "not", "yesno"});
  EXPECT_NE(refusal([&] { Grammar::from_choices({}); }), "");
}

TEST(EbnfGrammar, Syntax) {
  check(Grammar::from_ebnf("root ::= \"a\" b* # comment\nb ::= [0-9]+ | '-'\n"), "simple", {"a", "a12-3"}, {"", "b", "1"});
  check(Grammar::from_ebnf(R"x(
# arithmetic
root ::= sum
sum  ::= product (ws ("+" | "-") ws product)*
product ::= atom
          | atom "*" product
atom ::= number | "(" sum ")"
number ::= [1-9] [0-9]{0,3} | "0"
ws ::= " "?
)x"),
        "arithmetic", {"1", "1+2*3", "(1 - (20*3)) + 4", "((7))"}, {"", "1+", "(1", "01", "12345", "1  + 2"});
  check(Grammar::from_ebnf("root ::= /[a-z]+\\/x/ \"\\n\" . \"\\u00e9\\\"\" [\\]a]{2,}"), "escapes", {"ab/x\n!\xC3\xA9\"]a"},
        {"ab/x\n!\xC3\xA9\"]"});
  // Balanced brackets, and a grammar in which every beginning has very many meanings.
  check(Grammar::from_ebnf("root ::= \"(\" root \")\" root | \"\""), "brackets",
        {"", "()", "(())()", std::string(3000, '(') + std::string(3000, ')')}, {"(", ")(", "(()"});
  check(Grammar::from_ebnf("root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"a\" root | \"\""), "ambiguous",
        {"", "aab", std::string(300, 'a') + std::string(200, 'b') + std::string(100, 'c')}, {"b", "abb"});
  // What is empty may stand anywhere.
  check(Grammar::from_ebnf("root ::= e e \"x\" e\ne ::= \"\" | \"y\" | e2\ne2 ::= \"\"\n"), "empty", {"x", "yyxy", "yx"}, {"yyyx", ""});
}

TEST(EbnfGrammar, Refusals) {
  const auto error = [](const char* text) { return refusal([&] { Grammar::from_ebnf(text); }); };
  EXPECT_NE(error("root ::= root \"a\" | \"b\"").find("'root'"), std::string::npos);
  EXPECT_NE(error("root ::= e root \"a\" | \"b\"\ne ::= \"\" | \"x\"").find("'root'"), std::string::npos);
  EXPECT_NE(error("root ::= missing").find("'missing'"), std::string::npos);
  EXPECT_NE(error("x ::= \"a\"").find("root"), std::string::npos);
  EXPECT_NE(error("root ::= \"a\"\nroot ::= \"b\"").find("line 2"), std::string::npos);
  EXPECT_NE(error("root ::= \"a").find("line 1, column"), std::string::npos);
  EXPECT_NE(error("root ::= (\"a\""), "");
  EXPECT_NE(error("root = \"a\""), "");
  EXPECT_NE(error(""), "");
  EXPECT_NE(error("root ::= \"a\" root"), "");  // never ends
}

}  // namespace
}  // namespace tokamak::llm
