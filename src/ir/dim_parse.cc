// The text form of dimensions: a recursive-descent parser, bounded in length and depth.

#include <charconv>

#include "base/error.h"
#include "ir/dim.h"

namespace tokamak::ir {
namespace {

constexpr size_t kMaxParseText = 65536;
constexpr int kMaxParseDepth = 1024;

bool is_name_char(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.'; }

// expr := term (('+'|'-') term)*     term := factor ('*' factor)*
// factor := '-'? (integer | name | function '(' expr ',' expr ')' | '(' expr ')')
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Dim whole() {
    if (text_.size() > kMaxParseText) fail(ErrorCode::InvalidArgument, "a dimension of {} characters is too long", text_.size());
    Dim d = expression();
    skip_spaces();
    if (at_ != text_.size()) bad("end of text");
    return d;
  }

 private:
  Dim expression() {
    if (++depth_ > kMaxParseDepth) bad("less nesting");
    Dim sum = term();
    for (;;) {
      if (take('+')) sum = sum + term();
      else if (take('-')) sum = sum - term();
      else break;
    }
    --depth_;
    return sum;
  }

  Dim term() {
    Dim product = factor();
    while (take('*')) product = product * factor();
    return product;
  }

  Dim factor() {
    const bool negative = take('-');
    skip_spaces();
    if (at_ >= text_.size()) bad("a number or a name");
    const char c = text_[at_];
    if (c >= '0' && c <= '9') return number(negative);
    Dim d;
    if (take('(')) {
      d = expression();
      expect(')');
    } else {
      d = named();
    }
    return negative ? Dim(0) - d : d;
  }

  Dim number(bool negative) {
    const size_t start = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    uint64_t magnitude = 0;
    const auto [end, error] = std::from_chars(text_.data() + start, text_.data() + at_, magnitude);
    if (error != std::errc() || magnitude > static_cast<uint64_t>(INT64_MAX) + negative)
      fail(ErrorCode::OutOfRange, "a dimension leaves the range of 64-bit integers");
    return static_cast<int64_t>(negative ? uint64_t{0} - magnitude : magnitude);
  }

  Dim named() {
    const size_t start = at_;
    std::string name;
    while (at_ < text_.size() && (is_name_char(text_[at_]) || text_[at_] == '$')) {
      if (text_[at_] != '$') {
        name += text_[at_++];
        continue;
      }
      unsigned code = 0;
      const char* digits = text_.data() + at_ + 1;
      if (text_.size() - at_ >= 3 && std::from_chars(digits, digits + 2, code, 16).ptr == digits + 2) {
        name += static_cast<char>(code);
        at_ += 3;
      } else if (name.empty()) {
        ++at_;  // the empty name
        break;
      } else {
        bad("two hex digits after $");
      }
    }
    if (at_ == start) bad("a number or a name");
    if (!take('(')) return Dim::symbol(name);
    const auto function = name == "floordiv" ? Dim::floordiv
                          : name == "mod"    ? Dim::mod
                          : name == "min"    ? Dim::min
                          : name == "max"    ? Dim::max
                                             : nullptr;
    if (function == nullptr) bad("floordiv, mod, min or max");
    const Dim a = expression();
    expect(',');
    const Dim b = expression();
    expect(')');
    return function(a, b);
  }

  void skip_spaces() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  bool take(char c) {
    skip_spaces();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) bad(std::string_view(&c, 1));
  }
  [[noreturn]] void bad(std::string_view expected) const {
    fail(ErrorCode::InvalidArgument, "dimension \"{}\": expected {} at character {}", text_.substr(0, 80), expected, at_);
  }

  std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

Dim Dim::parse(std::string_view text) { return Parser(text).whole(); }

Dims parse_dims(std::string_view text) {
  Dims dims;
  if (text.find_first_not_of(' ') == std::string_view::npos) return dims;
  int depth = 0;
  size_t start = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] == '(') ++depth;
    if (i < text.size() && text[i] == ')') --depth;
    if (i == text.size() || (text[i] == ',' && depth == 0)) {
      dims.push_back(Dim::parse(text.substr(start, i - start)));
      start = i + 1;
    }
  }
  return dims;
}

}  // namespace tokamak::ir
