#include "server/openai/tool_call_parser.h"

#include <gtest/gtest.h>

#include <random>

namespace tokamak::server::openai {
namespace {

struct Read {
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
  bool operator==(const Read&) const = default;
};

void PrintTo(const Read& read, std::ostream* out) {
  *out << '"' << read.content << '"';
  for (const auto& [name, arguments] : read.calls) *out << " " << name << "(" << arguments << ")";
}

class Reader {
 public:
  Reader(ToolFormat format, bool is_forced, int max_calls) : parser_(format, is_forced, max_calls) {}
  void push(std::string_view text) {
    AnswerDelta delta;
    parser_.push(text, delta);
    take(delta);
  }
  Read finish() {
    AnswerDelta delta;
    parser_.finish(delta);
    take(delta);
    return read_;
  }

 private:
  void take(const AnswerDelta& delta) {
    read_.content += delta.content;
    for (const auto& call : delta.calls) {
      if (call.begins) {
        EXPECT_EQ(call.index, std::ssize(read_.calls));
        EXPECT_FALSE(call.id.empty());
        read_.calls.emplace_back(call.name, "");
      }
      ASSERT_EQ(call.index, std::ssize(read_.calls) - 1);
      read_.calls.back().second += call.arguments;
    }
  }
  ToolCallParser parser_;
  Read read_;
};

struct Case {
  ToolFormat format;
  std::string text;
  Read expected;
  bool is_forced = false;
  int max_calls = 100;
};

const std::vector<Case>& cases() {
  using enum ToolFormat;
  static const std::vector<Case> all = {
      {Tagged, "Just text.\n", {"Just text.\n", {}}},
      {Tagged, "a < b and <tool", {"a < b and <tool", {}}},
      {Tagged, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>", {"", {{"f", "{\"a\": [1, \"}\"]}"}}}},
      {Tagged, "Let me see.\n\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n", {"Let me see.", {{"f", "{}"}}}},
      {Tagged,
       "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>\n<tool_call>\n{\"arguments\": {\"y\": \"\\\"\"}, \"name\": "
       "\"g\"}\n</tool_call>",
       {"", {{"f", "{\"x\": 1}"}, {"g", "{\"y\": \"\\\"\"}"}}}},
      {Tagged, "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> and text", {" and text", {{"f", "{}"}}}},
      {Tagged, "<tool_call>{\"name\": \"f\"}</tool_call>", {"", {{"f", "{}"}}}},
      {Tagged, "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>", {"", {{"f", "{\"a\": 1}"}}}},
      {Tagged, "<tool_call>not JSON</tool_call>", {"<tool_call>not JSON</tool_call>", {}}},
      {Tagged, "<tool_call>{\"nome\": 3}</tool_call>", {"<tool_call>{\"nome\": 3}</tool_call>", {}}},
      {Tagged, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": ", {"", {{"f", "{\"a\": "}}}},  // max_tokens
      {Tagged, "<tool_call>{\"na", {"<tool_call>{\"na", {}}},
      {Tagged,
       "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
       {"", {{"f", "{}"}}},
       false,
       1},
      {Tagged, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>", {"", {{"f", "{\"a\": 1}"}}}, true},
      {Tagged, "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"na", {"", {{"f", "{}"}}}, true},
      {Llama, "Hello {world}", {"Hello {world}", {}}},
      {Llama, "{\"name\": \"f\", \"parameters\": {\"q\": \"x y\"}}", {"", {{"f", "{\"q\": \"x y\"}"}}}},
      {Llama,
       "\n<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"a\": null}}",
       {"", {{"f", "{}"}, {"g", "{\"a\": null}"}}}},
      {Llama, "{\"name\": \"Ann\", \"age\": 3}", {"{\"name\": \"Ann\", \"age\": 3}", {}}},
      {Llama, "{\"answer\": {\"deep\": [1]}} so", {"{\"answer\": {\"deep\": [1]}} so", {}}},
      {Llama, "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}", {"", {{"f", "{}"}, {"g", "{}"}}}, true},
      {Mistral,
       "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
       {"", {{"f", "{\"a\": 1}"}, {"g", "{}"}}}},
      {Mistral, "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}]", {"", {{"f", "{}"}}}},
      {Mistral, "A list: [TOOL", {"A list: [TOOL", {}}},
      {Mistral,
       "[{\"name\": \"f\", \"arguments\": {\"b\": 2}}]\n[{\"name\": \"g\", \"arguments\": {}}]",
       {"", {{"f", "{\"b\": 2}"}, {"g", "{}"}}},
       true},
  };
  return all;
}

TEST(ToolCallParser, Whole) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.text);
    Reader reader(c.format, c.is_forced, c.max_calls);
    reader.push(c.text);
    EXPECT_EQ(reader.finish(), c.expected);
  }
}

TEST(ToolCallParser, AnySplitReadsTheSame) {
  std::mt19937 random(1);
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.text);
    Reader bytewise(c.format, c.is_forced, c.max_calls);
    for (const char& byte : c.text) bytewise.push({&byte, 1});
    EXPECT_EQ(bytewise.finish(), c.expected);
    for (int round = 0; round < 50; ++round) {
      Reader reader(c.format, c.is_forced, c.max_calls);
      for (size_t at = 0; at < c.text.size();) {
        const size_t count = std::min(c.text.size() - at, size_t{1} + random() % 9);
        reader.push(std::string_view(c.text).substr(at, count));
        at += count;
      }
      ASSERT_EQ(reader.finish(), c.expected);
    }
  }
}

TEST(ToolCallParser, ContentIsNotHeldBackLongerThanNeeded) {
  ToolCallParser parser(ToolFormat::Tagged, false, 100);
  AnswerDelta delta;
  parser.push("Hello <b", delta);
  EXPECT_EQ(delta.content, "Hello <b");
  parser.push(" <tool", delta);
  EXPECT_EQ(delta.content, "Hello <b");  // with the blank, which would not be content before a call
  parser.push("box>", delta);
  EXPECT_EQ(delta.content, "Hello <b <toolbox>");
}

TEST(ToolCallParser, ArgumentsStream) {
  ToolCallParser parser(ToolFormat::Tagged, false, 100);
  AnswerDelta delta;
  parser.push("<tool_call>{\"name\": \"f\", \"arguments\": {\"text\": \"once", delta);
  ASSERT_EQ(delta.calls.size(), 1u);
  EXPECT_TRUE(delta.calls[0].begins);
  EXPECT_EQ(delta.calls[0].arguments, "{\"text\": \"once");
  delta = {};
  parser.push(" upon", delta);
  ASSERT_EQ(delta.calls.size(), 1u);
  EXPECT_FALSE(delta.calls[0].begins);
  EXPECT_EQ(delta.calls[0].arguments, " upon");
}

TEST(ToolCallParser, AnyTextIsRead) {
  std::mt19937 random(2);
  const std::vector<std::string> words = {
      "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "{",     "}", "[",  "]", "\"", "\\", ":",
      ",",           "name",         "\"name\":",    "\"arguments\":", "\"f\"", " ", "\n", "1", "é"};
  for (int round = 0; round < 3000; ++round) {
    const auto format = static_cast<ToolFormat>(random() % 3);
    const bool is_forced = random() % 2;
    std::string text;
    for (int i = 0; i < 12; ++i) text += words[random() % words.size()];
    Reader whole(format, is_forced, 2), pieces(format, is_forced, 2);
    whole.push(text);
    for (const char& byte : text) pieces.push({&byte, 1});
    ASSERT_EQ(whole.finish(), pieces.finish()) << text;
  }
}

TEST(ToolFormat, FromTheTemplate) {
  EXPECT_EQ(tool_format_of("{{ '<tool_call>' }}"), ToolFormat::Tagged);
  EXPECT_EQ(tool_format_of("[TOOL_CALLS] x"), ToolFormat::Mistral);
  EXPECT_EQ(tool_format_of("<|python_tag|>"), ToolFormat::Llama);
  EXPECT_EQ(tool_format_of("nothing"), ToolFormat::Tagged);
}

}  // namespace
}  // namespace tokamak::server::openai
