#pragma once
// Sets of Unicode characters, and how they are read as bytes.

#include <cstdint>
#include <vector>

#include "llm/grammar/automaton.h"

namespace tokamak::llm::grammar {

inline constexpr uint32_t kLastCodePoint = 0x10FFFF;

struct CodePointRange {
  uint32_t low, high;
};

// Ascending, disjoint ranges; surrogates are no characters and in no set.
class CodePointSet {
 public:
  CodePointSet() = default;
  CodePointSet(std::initializer_list<CodePointRange> ranges) {
    for (const auto& range : ranges) add(range.low, range.high);
  }
  static CodePointSet all() { return {{0, kLastCodePoint}}; }

  void add(uint32_t low, uint32_t high);
  void add(const CodePointSet& other);
  CodePointSet inverse() const;
  CodePointSet intersection(const CodePointSet& other) const;
  bool contains(uint32_t code) const;
  bool empty() const { return ranges_.empty(); }
  const std::vector<CodePointRange>& ranges() const { return ranges_; }
  bool operator==(const CodePointSet& other) const;

 private:
  std::vector<CodePointRange> ranges_;
};

// How a character is written in the text.
enum class Spelling {
  Plain,  // UTF-8
  Json,   // inside a JSON string: escaped where JSON demands it and only there
};

// Edges that read one character of the set.
void add_characters(AutomatonBuilder& builder, int32_t from, const CodePointSet& set, Spelling spelling, int32_t to);

// `text`, valid UTF-8, as it is written inside a JSON string.
std::string json_spelling(std::string_view text);

}  // namespace tokamak::llm::grammar
