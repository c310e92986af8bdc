#include "llm/grammar/ebnf.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>

#include "base/error.h"
#include "llm/grammar/regex.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::grammar {

namespace {

constexpr int kMaxDepth = 100;
constexpr int32_t kMaxCount = 1'000'000;

using Kind = RegexTree::Kind;

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

class Parser {
 public:
  Parser(AutomatonBuilder& builder, std::string_view text) : builder_(builder), in_(text) {}

  int32_t parse() {
    skip(true);
    while (!in_.done()) rule();
    for (const auto& [name, use] : rules_) {
      if (use.is_defined) continue;
      in_.seek(use.first_use);
      error(fmt::format("the rule '{}' is not defined", name));
    }
    const auto root = rules_.find("root");
    if (root == rules_.end()) fail(ErrorCode::InvalidArgument, "grammar: there is no rule 'root'");
    return root->second.rule;
  }

 private:
  struct Named {
    int32_t rule;
    bool is_defined;
    size_t first_use;
  };

  [[noreturn]] void error(std::string_view what) const {
    const std::string_view before = in_.text().substr(0, in_.at());
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const size_t begin = before.rfind('\n');
    fail(ErrorCode::InvalidArgument, "grammar, line {}, column {}: {}", line,
         before.size() - (begin == std::string_view::npos ? 0 : begin + 1) + 1, what);
  }

  // Past blanks and comments; past line ends only where a rule cannot end there.
  void skip(bool lines) {
    while (!in_.done()) {
      const char c = in_.peek();
      if (c == '#') {
        while (!in_.done() && in_.peek() != '\n') in_.take(in_.peek());
      } else if (c == ' ' || c == '\t' || c == '\r' || (lines && c == '\n')) {
        in_.take(c);
      } else {
        return;
      }
    }
  }

  std::string name() {
    const size_t begin = in_.at();
    while (!in_.done() && is_name_character(in_.peek())) in_.take(in_.peek());
    if (in_.at() == begin) error("a rule's name was expected");
    return std::string(in_.text().substr(begin, in_.at() - begin));
  }

  Named& named(const std::string& name, size_t at) {
    const auto [it, is_new] = rules_.try_emplace(name, Named{0, false, at});
    if (is_new) it->second.rule = builder_.add_rule(name);
    return it->second;
  }

  void rule() {
    const size_t begin = in_.at();
    Named& entry = named(name(), begin);
    if (entry.is_defined) {
      in_.seek(begin);
      error("the rule is defined a second time");
    }
    entry.is_defined = true;
    skip(false);
    if (!in_.take("::=")) error("'::=' was expected");
    skip(true);
    tree_ = {};
    tree_.root = choice(0);
    const Rule rule = builder_.rule(entry.rule);
    add_regex(builder_, rule.start, tree_, tree_.root, Spelling::Plain, rule.end);
    if (!in_.done() && in_.peek() != '\n') error("the rule should end here");
    skip(true);
  }

  int32_t choice(int depth) {
    if (depth > kMaxDepth) error("parentheses are nested too deeply");
    std::vector<int32_t> children = {sequence(depth)};
    while (true) {
      // A line may begin with '|'.
      const size_t before = in_.at();
      skip(true);
      if (!in_.take('|')) {
        in_.seek(before);
        break;
      }
      skip(true);
      children.push_back(sequence(depth));
    }
    return tree_.add({.kind = Kind::Choice, .children = std::move(children)});
  }

  int32_t sequence(int depth) {
    std::vector<int32_t> children;
    while (true) {
      skip(depth > 0);
      const char c = in_.peek();
      if (in_.done() || c == '|' || c == ')' || c == '\n') break;
      children.push_back(repeated(depth));
    }
    return tree_.add({.kind = Kind::Sequence, .children = std::move(children)});
  }

  int32_t repeated(int depth) {
    int32_t node = atom(depth);
    while (true) {
      int32_t min = 0, max = Repeat::kUnbounded;
      if (in_.take('*')) {
      } else if (in_.take('+')) {
        min = 1;
      } else if (in_.take('?')) {
        max = 1;
      } else if (in_.take('{')) {
        min = max = in_.take_number(kMaxCount + 1);
        if (min < 0) error("a repetition is {m}, {m,} or {m,n}");
        if (in_.take(',') && (max = in_.take_number(kMaxCount + 1)) < 0) max = Repeat::kUnbounded;
        if (!in_.take('}')) error("a repetition is {m}, {m,} or {m,n}");
        if (min > kMaxCount || (max != Repeat::kUnbounded && max > kMaxCount)) error("a repetition count above 1,000,000");
        if (min > max) error("repetition bounds are out of order");
      } else {
        return node;
      }
      node = tree_.add({.kind = Kind::Repeat, .min = min, .max = max, .children = {node}});
    }
  }

  int32_t atom(int depth) {
    const char c = in_.peek();
    if (c == '"' || c == '\'') return literal(c);
    if (c == '[') return bracket();
    if (c == '/') return regex();
    if (in_.take('.')) return tree_.add_set(CodePointSet::all());
    if (in_.take('(')) {
      const int32_t node = choice(depth + 1);
      skip(true);
      if (!in_.take(')')) error("')' was expected");
      return node;
    }
    const size_t begin = in_.at();
    const std::string word = name();
    skip(false);
    if (in_.peek() == ':') error("a rule begins on a line of its own");
    in_.seek(begin + word.size());
    return tree_.add({.kind = Kind::Call, .index = named(word, begin).rule});
  }

  int32_t literal(char quote) {
    in_.take(quote);
    std::vector<int32_t> children;
    while (!in_.take(quote)) {
      if (in_.done() || in_.peek() == '\n') error("a literal without its closing quote");
      const uint32_t code = character();
      children.push_back(tree_.add_set({{code, code}}));
    }
    return tree_.add({.kind = Kind::Sequence, .children = std::move(children)});
  }

  // Brackets and /.../ have the syntax of regular expressions.
  int32_t embedded(std::string_view pattern, size_t begin) {
    RegexTree tree;
    try {
      tree = parse_regex(pattern, "grammar");
      resolve_anchors(tree, false, "grammar");
    } catch (const Error& e) {
      if (e.code() != ErrorCode::InvalidArgument) throw;
      in_.seek(begin);
      error(e.what());
    }
    const auto first_node = static_cast<int32_t>(tree_.nodes.size()), first_set = static_cast<int32_t>(tree_.sets.size());
    for (RegexTree::Node& node : tree.nodes) {
      if (node.kind == Kind::Set) node.index += first_set;
      for (int32_t& child : node.children) child += first_node;
      tree_.nodes.push_back(std::move(node));
    }
    tree_.sets.insert(tree_.sets.end(), tree.sets.begin(), tree.sets.end());
    return first_node + tree.root;
  }

  int32_t bracket() {
    const size_t begin = in_.at();
    in_.take('[');
    in_.take('^');
    while (!in_.done() && in_.peek() != ']') {
      if (in_.peek() == '\\') in_.take('\\');
      if (!in_.done()) in_.take_code();
    }
    if (!in_.take(']')) error("'[' without ']'");
    return embedded(in_.text().substr(begin, in_.at() - begin), begin);
  }

  int32_t regex() {
    const size_t begin = in_.at();
    in_.take('/');
    bool in_bracket = false;
    while (!in_.done() && in_.peek() != '\n' && (in_bracket || in_.peek() != '/')) {
      if (in_.peek() == '[') in_bracket = true;
      if (in_.peek() == ']') in_bracket = false;
      if (in_.peek() == '\\') in_.take('\\');
      if (!in_.done()) in_.take_code();
    }
    const std::string_view pattern = in_.text().substr(begin + 1, in_.at() - begin - 1);
    if (!in_.take('/')) error("'/' without an end");
    return embedded(pattern, begin);
  }

  uint32_t character() {
    if (!in_.take('\\')) return in_.take_code();
    if (in_.done()) error("'\\' at the end");
    const uint32_t c = in_.take_code();
    switch (c) {
      case 'n': return '\n';
      case 't': return '\t';
      case 'r': return '\r';
      case 'b': return '\b';
      case 'f': return '\f';
      case '\\':
      case '"':
      case '\'':
      case '/':
      case '[':
      case ']': return c;
      default: break;
    }
    const int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    const int32_t code = digits == 8 && in_.peek() != '0' ? -1 : digits > 0 ? in_.take_hex(digits) : -1;
    if (code < 0 || code > static_cast<int32_t>(kLastCodePoint) || (code >= 0xD800 && code <= 0xDFFF)) error("unknown escape");
    return static_cast<uint32_t>(code);
  }

  AutomatonBuilder& builder_;
  Scanner in_;
  RegexTree tree_;
  std::map<std::string, Named> rules_;
};

}  // namespace

int32_t add_ebnf(AutomatonBuilder& builder, std::string_view text) {
  if (!tokenizer::is_valid_utf8(text)) fail(ErrorCode::InvalidArgument, "the grammar is not UTF-8");
  return Parser(builder, text).parse();
}

}  // namespace tokamak::llm::grammar
