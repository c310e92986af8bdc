#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <optional>

#include "base/error.h"
#include "llm/grammar/regex.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::grammar {

uint32_t Scanner::take_code() { return tokenizer::next_code(text_, at_); }

int32_t Scanner::take_number(int32_t limit) {
  if (peek() < '0' || peek() > '9') return -1;
  int64_t value = 0;
  for (; peek() >= '0' && peek() <= '9'; ++at_) value = std::min<int64_t>(value * 10 + (peek() - '0'), limit);
  return static_cast<int32_t>(value);
}

int32_t Scanner::take_hex(int digits) {
  int32_t value = 0;
  for (int i = 0; i < digits; ++i) {
    const char c = peek(i);
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  at_ += digits;
  return value;
}

namespace {

constexpr int kMaxDepth = 100;
constexpr int32_t kMaxCount = 1'000'000;

using Kind = RegexTree::Kind;

CodePointSet digits() { return {{'0', '9'}}; }
CodePointSet word_characters() { return {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}; }
// White space and line ends of ECMA-262.
CodePointSet spaces() {
  return {{9, 13},          {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
          {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
}

// Characters of a general category ("Lu") or of all that begin so ("L").
std::optional<CodePointSet> category(std::string_view name) {
  static constexpr std::array<std::string_view, 30> kNames = {"Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd",
                                                              "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm",
                                                              "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co"};
  static constexpr std::pair<std::string_view, std::string_view> kLong[] = {
      {"Letter", "L"}, {"Lowercase_Letter", "Ll"}, {"Uppercase_Letter", "Lu"},
      {"Number", "N"}, {"Decimal_Number", "Nd"},   {"Punctuation", "P"},
      {"Symbol", "S"}, {"Separator", "Z"},         {"Mark", "M"},
      {"Other", "C"}};
  for (const auto& [name_long, name_short] : kLong) {
    if (name == name_long) name = name_short;
  }
  if (name.empty() || name.size() > 2) return std::nullopt;
  std::array<bool, 30> wanted{};
  bool any = false;
  for (size_t i = 0; i < kNames.size(); ++i) any |= wanted[i] = kNames[i].starts_with(name);
  if (!any) return std::nullopt;
  CodePointSet set;
  uint32_t begin = 0;
  bool inside = false;
  for (uint32_t code = 0; code <= kLastCodePoint + 1; ++code) {
    const bool is_in = code <= kLastCodePoint && wanted[utf8proc_category(static_cast<utf8proc_int32_t>(code))];
    if (is_in && !inside) begin = code;
    if (!is_in && inside) set.add(begin, code - 1);
    inside = is_in;
  }
  return set;
}

class Parser {
 public:
  Parser(std::string_view pattern, std::string_view where) : in_(pattern), where_(where) {}

  RegexTree parse() {
    tree_.root = choice(0);
    if (!in_.done()) error("')' without '('");
    return std::move(tree_);
  }

 private:
  [[noreturn]] void error(std::string_view what) const {
    fail(ErrorCode::InvalidArgument, "{}: regular expression, at byte {}: {}", where_, in_.at(), what);
  }

  int32_t choice(int depth) {
    if (depth > kMaxDepth) error("groups are nested too deeply");
    std::vector<int32_t> children = {sequence(depth)};
    while (in_.take('|')) children.push_back(sequence(depth));
    return children.size() == 1 ? children[0] : tree_.add({.kind = Kind::Choice, .children = std::move(children)});
  }

  int32_t sequence(int depth) {
    std::vector<int32_t> children;
    while (!in_.done() && in_.peek() != '|' && in_.peek() != ')') children.push_back(repeated(depth));
    return children.size() == 1 ? children[0] : tree_.add({.kind = Kind::Sequence, .children = std::move(children)});
  }

  int32_t repeated(int depth) {
    int32_t node = atom(depth);
    int32_t min = 0, max = Repeat::kUnbounded;
    if (in_.take('*')) {
    } else if (in_.take('+')) {
      min = 1;
    } else if (in_.take('?')) {
      max = 1;
    } else if (!bounds(min, max)) {
      return node;
    }
    if (tree_.nodes[node].kind == Kind::Begin || tree_.nodes[node].kind == Kind::End) error("an anchor cannot be repeated");
    in_.take('?');  // lazy: the same language
    if (in_.peek() == '*' || in_.peek() == '+' || in_.peek() == '?') error("nothing to repeat");
    return tree_.add({.kind = Kind::Repeat, .min = min, .max = max, .children = {node}});
  }

  // {m}, {m,} or {m,n}; anything else is text.
  bool bounds(int32_t& min, int32_t& max) {
    const size_t begin = in_.at();
    if (!in_.take('{')) return false;
    min = max = in_.take_number(kMaxCount + 1);
    if (min >= 0 && in_.take(',')) {
      max = in_.take_number(kMaxCount + 1);
      if (max < 0) max = Repeat::kUnbounded;
    }
    if (min < 0 || !in_.take('}')) {
      in_.seek(begin);
      return false;
    }
    if (min > kMaxCount || (max != Repeat::kUnbounded && max > kMaxCount)) error("a repetition count above 1,000,000");
    if (min > max) error("repetition bounds are out of order");
    return true;
  }

  int32_t atom(int depth) {
    switch (in_.peek()) {
      case '(': return group(depth);
      case '[': return tree_.add_set(bracket());
      case '.': in_.take('.'); return tree_.add_set(CodePointSet{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}.inverse());
      case '^': in_.take('^'); return tree_.add({.kind = Kind::Begin});
      case '$': in_.take('$'); return tree_.add({.kind = Kind::End});
      case '*':
      case '+':
      case '?': error("nothing to repeat");
      case '\\': return escape();
      case '{': {
        int32_t min, max;
        const size_t begin = in_.at();
        if (bounds(min, max)) error("nothing to repeat");
        in_.seek(begin);
        break;
      }
      default: break;
    }
    const uint32_t code = in_.take_code();
    return tree_.add_set({{code, code}});
  }

  int32_t group(int depth) {
    in_.take('(');
    if (in_.take("?=") || in_.take("?!") || in_.take("?<=") || in_.take("?<!")) error("look-around is not regular and is not supported");
    if (in_.take("?<") || in_.take("?P<")) {
      while (!in_.done() && in_.peek() != '>') in_.take_code();
      if (!in_.take('>')) error("a group's name without '>'");
    } else if (in_.peek() == '?' && !in_.take("?:")) {
      error("unknown kind of group");
    }
    const int32_t node = choice(depth + 1);
    if (!in_.take(')')) error("'(' without ')'");
    // A node of its own: anchors inside are not those of the whole.
    return tree_.add({.kind = Kind::Sequence, .children = {node}});
  }

  int32_t escape() {
    const char c = in_.peek(1);
    if (c == 'b' || c == 'B') error("\\b is not supported");
    if ((c >= '1' && c <= '9') || c == 'k') error("back references are not regular and are not supported");
    return tree_.add_set(escaped_set());
  }

  // At a backslash; in brackets \b is a backspace.
  CodePointSet escaped_set() {
    in_.take('\\');
    if (in_.done()) error("'\\' at the end");
    const auto one = [](uint32_t code) { return CodePointSet{{code, code}}; };
    const uint32_t c = in_.take_code();
    switch (c) {
      case 'd': return digits();
      case 'D': return digits().inverse();
      case 'w': return word_characters();
      case 'W': return word_characters().inverse();
      case 's': return spaces();
      case 'S': return spaces().inverse();
      case 'n': return one('\n');
      case 't': return one('\t');
      case 'r': return one('\r');
      case 'f': return one('\f');
      case 'v': return one('\v');
      case 'b': return one('\b');
      case '0': return one(0);
      case 'c': {
        const char letter = in_.peek();
        if ((letter < 'a' || letter > 'z') && (letter < 'A' || letter > 'Z')) error("\\c without a letter");
        in_.take(letter);
        return one(letter & 31);
      }
      case 'x': {
        const int32_t code = in_.take_hex(2);
        if (code < 0) error("\\x without two hexadecimal digits");
        return one(code);
      }
      case 'u': return one(unicode_escape());
      case 'p':
      case 'P': {
        const size_t begin = in_.at() + 1;
        if (!in_.take('{')) error("\\p without '{'");
        while (!in_.done() && in_.peek() != '}') in_.take_code();
        std::string_view name = in_.text().substr(begin, in_.at() - begin);
        if (!in_.take('}')) error("\\p{ without '}'");
        for (const std::string_view prefix : {"General_Category=", "gc="}) {
          if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
        }
        const auto set = category(name);
        if (!set) error("only general categories (\\p{L}, \\p{Lu}, ...) are supported");
        return c == 'p' ? *set : set->inverse();
      }
      default: break;
    }
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '1' && c <= '9')) error("unknown escape");
    return one(c);
  }

  uint32_t unicode_escape() {
    if (in_.take('{')) {
      int64_t code = 0;
      int count = 0;
      for (int32_t digit; (digit = in_.take_hex(1)) >= 0; ++count) code = std::min<int64_t>(code * 16 + digit, kLastCodePoint + 1);
      if (count == 0 || code > kLastCodePoint || !in_.take('}')) error("\\u{...} needs a character's number");
      return static_cast<uint32_t>(code);
    }
    int32_t code = in_.take_hex(4);
    if (code < 0) error("\\u without four hexadecimal digits");
    if (code >= 0xD800 && code < 0xDC00 && in_.take("\\u")) {
      const int32_t low = in_.take_hex(4);
      if (low < 0xDC00 || low > 0xDFFF) error("half a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code >= 0xD800 && code <= 0xDFFF) error("half a surrogate pair");
    return static_cast<uint32_t>(code);
  }

  CodePointSet bracket() {
    in_.take('[');
    const bool inverts = in_.take('^');
    CodePointSet set;
    while (!in_.take(']')) {
      if (in_.done()) error("'[' without ']'");
      const CodePointSet low = bracket_item();
      const bool is_range = in_.peek() == '-' && in_.peek(1) != ']' && in_.peek(1) != '\0';
      if (!is_range) {
        set.add(low);
        continue;
      }
      in_.take('-');
      const CodePointSet high = bracket_item();
      const auto one = [&](const CodePointSet& s) {
        if (s.ranges().size() != 1 || s.ranges()[0].low != s.ranges()[0].high) error("a range needs one character at either end");
        return s.ranges()[0].low;
      };
      if (one(low) > one(high)) error("range out of order");
      set.add(one(low), one(high));
    }
    return inverts ? set.inverse() : set;
  }

  CodePointSet bracket_item() {
    if (in_.peek() == '\\') return escaped_set();
    const uint32_t code = in_.take_code();
    return {{code, code}};
  }

  Scanner in_;
  std::string_view where_;
  RegexTree tree_;
};

// Whether a sequence is a group: made around the group's content alone.
bool is_wrapper(const RegexTree& tree, int32_t node) {
  return tree.nodes[node].kind == Kind::Sequence && tree.nodes[node].children.size() == 1;
}

bool has_anchor(const RegexTree& tree) {
  std::vector<int32_t> work = {tree.root};
  while (!work.empty()) {
    const auto& node = tree.nodes[work.back()];
    work.pop_back();
    if (node.kind == Kind::Begin || node.kind == Kind::End) return true;
    work.insert(work.end(), node.children.begin(), node.children.end());
  }
  return false;
}

}  // namespace

RegexTree parse_regex(std::string_view pattern, std::string_view where) {
  if (!tokenizer::is_valid_utf8(pattern)) fail(ErrorCode::InvalidArgument, "{}: the regular expression is not UTF-8", where);
  return Parser(pattern, where).parse();
}

void resolve_anchors(RegexTree& tree, bool searches, std::string_view where) {
  while (is_wrapper(tree, tree.root)) tree.root = tree.nodes[tree.root].children[0];
  const auto any = [&] {
    return tree.add({.kind = Kind::Repeat, .min = 0, .max = Repeat::kUnbounded, .children = {tree.add_set(CodePointSet::all())}});
  };
  std::vector<int32_t> alternatives = {tree.root};
  if (tree.nodes[tree.root].kind == Kind::Choice) alternatives = tree.nodes[tree.root].children;
  for (int32_t& alternative : alternatives) {
    while (is_wrapper(tree, alternative)) alternative = tree.nodes[alternative].children[0];
    std::vector<int32_t> parts = {alternative};
    if (tree.nodes[alternative].kind == Kind::Sequence) parts = tree.nodes[alternative].children;
    bool begins = false, ends = false;
    while (!parts.empty() && tree.nodes[parts.front()].kind == Kind::Begin) {
      parts.erase(parts.begin());
      begins = true;
    }
    while (!parts.empty() && tree.nodes[parts.back()].kind == Kind::End) {
      parts.pop_back();
      ends = true;
    }
    if (searches && !begins) parts.insert(parts.begin(), any());
    if (searches && !ends) parts.push_back(any());
    alternative = tree.add({.kind = Kind::Sequence, .children = std::move(parts)});
  }
  tree.root = tree.add({.kind = Kind::Choice, .children = std::move(alternatives)});
  if (has_anchor(tree))
    fail(ErrorCode::InvalidArgument, "{}: '^' and '$' are supported only at the ends of the regular expression or of its alternatives",
         where);
}

}  // namespace tokamak::llm::grammar
