#pragma once
// Regular expressions as syntax trees, shared by `pattern`, from_regex and the right sides of EBNF rules.

#include <cstdint>
#include <string_view>
#include <vector>

#include "llm/grammar/code_points.h"

namespace tokamak::llm::grammar {

struct RegexTree {
  enum class Kind : uint8_t {
    Sequence,  // the children, one after the other; none: the empty text
    Choice,    // one of the children
    Set,       // one character of sets[index]
    Repeat,    // the child, min to max times
    Call,      // a text of rule `index`
    Begin,     // ^
    End,       // $
  };
  struct Node {
    Kind kind;
    int32_t index = 0;
    int32_t min = 0, max = 0;
    std::vector<int32_t> children;
  };
  std::vector<Node> nodes;
  std::vector<CodePointSet> sets;
  int32_t root = 0;

  int32_t add(Node node) {
    nodes.push_back(std::move(node));
    return static_cast<int32_t>(nodes.size()) - 1;
  }
  int32_t add_set(CodePointSet set) {
    sets.push_back(std::move(set));
    return add({.kind = Kind::Set, .index = static_cast<int32_t>(sets.size()) - 1});
  }
};

// Reads an ECMA-262 pattern (with the `u` flag's escapes, and without what no automaton can do). `where` is for messages. Throws
// InvalidArgument, ResourceExhausted when it is nested too deeply.
RegexTree parse_regex(std::string_view pattern, std::string_view where);

// Anchors at the ends are taken away. With `searches`, what is not anchored may have any characters before or after. Throws InvalidArgument
// for an anchor elsewhere.
void resolve_anchors(RegexTree& tree, bool searches, std::string_view where);

// Edges that read what the tree's `node` matches.
void add_regex(AutomatonBuilder& builder, int32_t from, const RegexTree& tree, int32_t node, Spelling spelling, int32_t to);

// The same for texts of min to max characters. Throws InvalidArgument for trees with calls.
void add_bounded_regex(AutomatonBuilder& builder, int32_t from, const RegexTree& tree, Spelling spelling, int32_t min, int32_t max,
                       int32_t to);

// Reads text with an offset, for parsers whose errors say where.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}
  bool done() const { return at_ >= text_.size(); }
  size_t at() const { return at_; }
  void seek(size_t at) { at_ = at; }
  // 0 at the end.
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  bool take(char c) {
    if (done() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  uint32_t take_code();  // not at the end; the text is valid UTF-8
  // A decimal number, at most `limit`; -1 when there is none.
  int32_t take_number(int32_t limit);
  // `digits` hexadecimal ones; -1 when they are not there.
  int32_t take_hex(int digits);
  std::string_view text() const { return text_; }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace tokamak::llm::grammar
