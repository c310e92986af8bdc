#pragma once
// Pattern and content of the Replace normalizer and the Replace decoder.

#include <string>
#include <string_view>
#include <variant>

#include "llm/tokenizer/json_node.h"
#include "llm/tokenizer/regex.h"

namespace tokamak::llm::tokenizer {

// `pattern`: {"String": text} or {"Regex": pattern}, as in Replace and Split. Strings are kept as such: searching them needs no regex.
using Pattern = std::variant<std::string, Regex>;
Pattern read_pattern(const JsonNode& json);

class Replacement {
 public:
  explicit Replacement(const JsonNode& json);  // an object with `pattern` and `content`

  // Every match becomes `content`, literally. removed_start: whether the first character went without anything in its place.
  std::string apply(std::string_view text, bool* removed_start = nullptr) const;

  bool is_literal() const { return std::holds_alternative<std::string>(pattern_); }
  const std::string& literal() const { return std::get<std::string>(pattern_); }
  const std::string& content() const { return content_; }

 private:
  Pattern pattern_;
  std::string content_;
};

// Calls f(begin, end) for each match of `pattern` in `text`.
template <class F>
void for_each_match(const Pattern& pattern, std::string_view text, const F& f) {
  if (const auto* regex = std::get_if<Regex>(&pattern)) return regex->for_each_match(text, f);
  const auto& literal = std::get<std::string>(pattern);
  for (size_t at = 0; !literal.empty() && (at = text.find(literal, at)) != std::string_view::npos; at += literal.size()) {
    f(at, at + literal.size());
  }
}

}  // namespace tokamak::llm::tokenizer
