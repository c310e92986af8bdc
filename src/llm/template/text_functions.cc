#include "llm/template/text_functions.h"

#include <algorithm>

#include "llm/tokenizer/unicode.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::jinja {

using tokenizer::next_code;
using tokenizer::previous_character;
using tokenizer::utf8_length;

namespace {

// Python's str.isspace(): White_Space and the four information separators.
bool is_python_space(char32_t c) { return tokenizer::is_whitespace(c) || (c >= 0x1C && c <= 0x1F); }

bool is_line_end(char32_t c) { return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029; }

}  // namespace

std::string_view strip(std::string_view text, Side side, const std::optional<std::string_view>& set) {
  const auto goes = [&](size_t at) {
    const std::string_view character = text.substr(at, utf8_length(text[at]));
    return set ? set->find(character) != std::string_view::npos : is_python_space(next_code(text, at));
  };
  size_t begin = 0, end = text.size();
  if (side != Side::Right) {
    while (begin < end && goes(begin)) begin += utf8_length(text[begin]);
  }
  if (side != Side::Left) {
    while (end > begin) {
      const size_t previous = previous_character(text, end);
      if (!goes(previous)) break;
      end = previous;
    }
  }
  return text.substr(begin, end - begin);
}

std::string replace(std::string_view text, std::string_view from, std::string_view to, int64_t count, Budget& budget) {
  std::string out;
  const auto left = [&] { return count != 0 && (count < 0 || count-- > 0); };
  if (from.empty()) {
    for (size_t at = 0;;) {
      if (left()) budget.append(out, to);
      if (at >= text.size()) return out;
      const size_t n = utf8_length(text[at]);
      budget.append(out, text.substr(at, n));
      at += n;
    }
  }
  size_t done = 0;
  for (size_t at; (at = text.find(from, done)) != std::string_view::npos && left(); done = at + from.size()) {
    budget.append(out, text.substr(done, at - done));
    budget.append(out, to);
  }
  budget.append(out, text.substr(done));
  return out;
}

std::vector<std::string_view> split(std::string_view text, const std::optional<std::string_view>& separator, int64_t limit,
                                    bool from_right) {
  std::vector<std::string_view> parts;
  const auto full = [&] { return limit >= 0 && static_cast<int64_t>(parts.size()) >= limit; };
  if (from_right) {
    if (separator) {
      while (!full()) {
        const size_t at = text.rfind(*separator);
        if (at == std::string_view::npos) break;
        parts.push_back(text.substr(at + separator->size()));
        text = text.substr(0, at);
      }
      parts.push_back(text);
    } else {
      while (!(text = strip(text, Side::Right)).empty()) {
        if (full()) {
          parts.push_back(text);
          break;
        }
        size_t begin = text.size();
        while (begin > 0) {
          const size_t previous = previous_character(text, begin);
          size_t at = previous;
          if (is_python_space(next_code(text, at))) break;
          begin = previous;
        }
        parts.push_back(text.substr(begin));
        text = text.substr(0, begin);
      }
    }
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  if (separator) {
    while (!full()) {
      const size_t at = text.find(*separator);
      if (at == std::string_view::npos) break;
      parts.push_back(text.substr(0, at));
      text = text.substr(at + separator->size());
    }
    parts.push_back(text);
    return parts;
  }
  while (!(text = strip(text, Side::Left)).empty()) {
    if (full()) {
      parts.push_back(text);
      break;
    }
    size_t end = 0;
    for (size_t at = 0; at < text.size() && !is_python_space(next_code(text, at)); end = at) {
    }
    parts.push_back(text.substr(0, end));
    text = text.substr(end);
  }
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    if (!is_line_end(next_code(text, at))) continue;
    if (text[end] == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  const size_t n = utf8_length(text[0]);
  return tokenizer::to_upper(text.substr(0, n)) + tokenizer::to_lower(text.substr(n));
}

std::string title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const bool letter = tokenizer::is_letter(next_code(text, at));
    const std::string_view character = text.substr(begin, at - begin);
    out += in_word ? tokenizer::to_lower(character) : tokenizer::to_upper(character);
    in_word = letter;
  }
  return out;
}

}  // namespace tokamak::llm::jinja
