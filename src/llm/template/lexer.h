#pragma once
// Template text to tokens, with Jinja's whitespace control: trim_blocks and lstrip_blocks on, as `transformers` sets them.

#include <string>
#include <string_view>
#include <vector>

namespace tokamak::llm::jinja {

struct Token {
  enum class Kind { Text, BlockBegin, BlockEnd, PrintBegin, PrintEnd, Name, String, Integer, Float, Operator, End };
  Kind kind;
  std::string text;  // of Text and String: the value; of numbers: digits without '_', with their base prefix
  int line;
};

// Throws InvalidArgument with the line. Comments are gone, raw blocks are text.
std::vector<Token> tokenize(std::string_view source);

// "chat template, line 3: message"
[[noreturn]] void template_error(int line, std::string_view message);

}  // namespace tokamak::llm::jinja
