#include "llm/grammar/code_points.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::grammar {

void CodePointSet::add(uint32_t low, uint32_t high) {
  if (low < 0xD800 && high > 0xDFFF) {
    add(low, 0xD7FF);
    add(0xE000, high);
    return;
  }
  if (low >= 0xD800 && low <= 0xDFFF) low = 0xE000;
  if (high >= 0xD800 && high <= 0xDFFF) high = 0xD7FF;
  if (low > high) return;
  // The ranges that touch the new one become part of it.
  const auto first =
      std::lower_bound(ranges_.begin(), ranges_.end(), low, [](const CodePointRange& r, uint32_t v) { return r.high + 1 < v; });
  auto last = first;
  while (last != ranges_.end() && last->low <= high + 1) {
    low = std::min(low, last->low);
    high = std::max(high, last->high);
    ++last;
  }
  ranges_.insert(ranges_.erase(first, last), {low, high});
}

void CodePointSet::add(const CodePointSet& other) {
  for (const auto& range : other.ranges_) add(range.low, range.high);
}

CodePointSet CodePointSet::inverse() const {
  CodePointSet out;
  uint32_t next = 0;
  for (const auto& range : ranges_) {
    if (range.low > next) out.add(next, range.low - 1);
    next = range.high + 1;
  }
  if (next <= kLastCodePoint) out.add(next, kLastCodePoint);
  return out;
}

CodePointSet CodePointSet::intersection(const CodePointSet& other) const {
  CodePointSet out;
  size_t i = 0, j = 0;
  while (i < ranges_.size() && j < other.ranges_.size()) {
    const auto &a = ranges_[i], &b = other.ranges_[j];
    const uint32_t low = std::max(a.low, b.low), high = std::min(a.high, b.high);
    if (low <= high) out.add(low, high);
    if (a.high < b.high) ++i;
    else ++j;
  }
  return out;
}

bool CodePointSet::contains(uint32_t code) const {
  const auto it = std::lower_bound(ranges_.begin(), ranges_.end(), code, [](const CodePointRange& r, uint32_t v) { return r.high < v; });
  return it != ranges_.end() && it->low <= code;
}

bool CodePointSet::operator==(const CodePointSet& other) const {
  return std::equal(ranges_.begin(), ranges_.end(), other.ranges_.begin(), other.ranges_.end(),
                    [](const CodePointRange& a, const CodePointRange& b) { return a.low == b.low && a.high == b.high; });
}

namespace {

struct ByteRange {
  uint8_t low, high;
  auto operator<=>(const ByteRange&) const = default;
};

// A range of characters of one UTF-8 length as sequences of byte ranges: cut until the bytes after the first that differs are whole.
// Method: Russ Cox, "Regular Expression Matching in the Wild" (2010), the section on UTF-8.
void split(uint32_t low, uint32_t high, int length, std::vector<std::vector<ByteRange>>& out) {
  for (int i = 1; i < length; ++i) {
    const uint32_t tail = (1u << (6 * i)) - 1;
    if ((low & ~tail) == (high & ~tail)) continue;
    if (low & tail) {
      split(low, low | tail, length, out);
      return split((low | tail) + 1, high, length, out);
    }
    if ((high & tail) != tail) {
      split(low, (high & ~tail) - 1, length, out);
      return split(high & ~tail, high, length, out);
    }
  }
  std::vector<ByteRange> bytes(length);
  for (int i = length - 1; i > 0; --i, low >>= 6, high >>= 6) {
    bytes[i] = {static_cast<uint8_t>(0x80 | (low & 0x3F)), static_cast<uint8_t>(0x80 | (high & 0x3F))};
  }
  static constexpr uint8_t kLead[] = {0, 0, 0xC0, 0xE0, 0xF0};
  bytes[0] = {static_cast<uint8_t>(kLead[length] | low), static_cast<uint8_t>(kLead[length] | high)};
  out.push_back(std::move(bytes));
}

void add_utf8(AutomatonBuilder& builder, int32_t from, const CodePointSet& set, int32_t to) {
  static constexpr uint32_t kLast[] = {0, 0x7F, 0x7FF, 0xFFFF, kLastCodePoint};
  std::vector<std::vector<ByteRange>> sequences;
  for (auto [low, high] : set.ranges()) {
    for (int length = 1; length <= 4; ++length) {
      if (low > kLast[length]) continue;
      if (low > high) break;
      split(low, std::min(high, kLast[length]), length, sequences);
      low = kLast[length] + 1;
    }
  }
  // Sequences share their ends.
  std::map<std::pair<int32_t, ByteRange>, int32_t> nodes;  // (next node, range that leads there) -> node
  for (const auto& bytes : sequences) {
    int32_t next = to;
    for (size_t i = bytes.size() - 1; i > 0; --i) {
      const auto [it, is_new] = nodes.try_emplace({next, bytes[i]}, 0);
      if (is_new) {
        it->second = builder.add_node(builder.rule_of(from));
        builder.add_bytes(it->second, bytes[i].low, bytes[i].high, next);
      }
      next = it->second;
    }
    builder.add_bytes(from, bytes[0].low, bytes[0].high, next);
  }
}

std::string escape(uint32_t code) {
  switch (code) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\b': return "\\b";
    case '\f': return "\\f";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default: return fmt::format("\\u{:04x}", code);
  }
}

const CodePointSet& escaped_characters() {
  static const CodePointSet set = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
  return set;
}

}  // namespace

void add_characters(AutomatonBuilder& builder, int32_t from, const CodePointSet& set, Spelling spelling, int32_t to) {
  if (spelling == Spelling::Plain) return add_utf8(builder, from, set, to);
  std::vector<std::string> escapes;
  const CodePointSet escaped = set.intersection(escaped_characters());
  for (const auto& [low, high] : escaped.ranges()) {
    for (uint32_t code = low; code <= high; ++code) escapes.push_back(escape(code));
  }
  builder.add_choices(from, std::move(escapes), to);
  add_utf8(builder, from, set.intersection(escaped_characters().inverse()), to);
}

std::string json_spelling(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const uint32_t code = tokenizer::next_code(text, at);
    if (escaped_characters().contains(code)) out += escape(code);
    else out += text.substr(begin, at - begin);
  }
  return out;
}

}  // namespace tokamak::llm::grammar
