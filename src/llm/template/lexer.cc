#include "llm/template/lexer.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::jinja {

void template_error(int line, std::string_view message) { fail(ErrorCode::InvalidArgument, "chat template, line {}: {}", line, message); }

namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// Every line ends in \n; one newline at the very end goes.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_newlines(source)), text_(source_) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) {
      const size_t tag = find_tag();
      if (tag == std::string_view::npos) {
        add(Token::Kind::Text, text_.substr(at_));
        break;
      }
      take_text(tag);
      at_ = tag;
      switch (text_[tag + 1]) {
        case '#': comment(); break;
        case '%':
          if (!raw_block()) inside(Token::Kind::BlockBegin, Token::Kind::BlockEnd, '%');
          break;
        default: inside(Token::Kind::PrintBegin, Token::Kind::PrintEnd, '}');
      }
    }
    tokens_.push_back({Token::Kind::End, "", line_});
    return std::move(tokens_);
  }

 private:
  void add(Token::Kind kind, std::string_view text) {
    if (kind == Token::Kind::Text) {
      if (!text.empty()) tokens_.push_back({kind, std::string(text), line_});
    } else {
      tokens_.push_back({kind, std::string(text), line_});
    }
    count_lines(text);
  }
  void count_lines(std::string_view text) { line_ += static_cast<int>(std::count(text.begin(), text.end(), '\n')); }

  size_t find_tag() const {
    for (size_t i = at_; (i = text_.find('{', i)) != std::string_view::npos; ++i) {
      if (i + 1 < text_.size() && (text_[i + 1] == '{' || text_[i + 1] == '%' || text_[i + 1] == '#')) return i;
    }
    return std::string_view::npos;
  }

  // The text before a tag, stripped as the tag's sign and lstrip_blocks say.
  void take_text(size_t tag) {
    add_stripped(text_.substr(at_, tag - at_), text_[tag + 1] == '{', tag + 2 < text_.size() ? text_[tag + 2] : ' ');
  }

  void add_stripped(std::string_view text, bool is_print, char sign) {
    std::string_view kept = text;
    if (sign == '-') {
      while (!kept.empty() && is_space(kept.back())) kept.remove_suffix(1);
    } else if (sign != '+' && !is_print) {
      const size_t line_begin = text.rfind('\n') == std::string_view::npos ? 0 : text.rfind('\n') + 1;
      const bool starts_line = line_begin > 0 || at_line_start_;
      if (starts_line && std::all_of(text.begin() + static_cast<ptrdiff_t>(line_begin), text.end(), is_space))
        kept = text.substr(0, line_begin);
    }
    add(Token::Kind::Text, kept);
    count_lines(text.substr(kept.size()));
  }

  // Past the end of a tag: '-' strips what follows, a block eats one newline unless '+'.
  void skip_after(char sign, bool is_block) {
    const size_t begin = at_;
    if (sign == '-') {
      while (at_ < text_.size() && is_space(text_[at_])) ++at_;
    } else if (is_block && sign != '+' && at_ < text_.size() && text_[at_] == '\n') {
      ++at_;
    }
    count_lines(text_.substr(begin, at_ - begin));
    at_line_start_ = at_ > 0 && text_[at_ - 1] == '\n';
  }

  void comment() {
    const size_t end = text_.find("#}", at_ + 2);
    if (end == std::string_view::npos) template_error(line_, "a comment does not end");
    const char sign = end > at_ + 2 ? text_[end - 1] : ' ';
    count_lines(text_.substr(at_, end - at_));
    at_ = end + 2;
    skip_after(sign == '-' || sign == '+' ? sign : ' ', true);
  }

  // `{%- name -%}` at `at`: its end and its last sign.
  struct Tag {
    size_t end;
    char first_sign, last_sign;
  };
  std::optional<Tag> bare_tag(size_t at, std::string_view name) const {
    if (!text_.substr(at).starts_with("{%")) return std::nullopt;
    at += 2;
    Tag tag{0, ' ', ' '};
    if (at < text_.size() && (text_[at] == '-' || text_[at] == '+')) tag.first_sign = text_[at++];
    while (at < text_.size() && is_space(text_[at])) ++at;
    if (!text_.substr(at).starts_with(name)) return std::nullopt;
    at += name.size();
    while (at < text_.size() && is_space(text_[at])) ++at;
    if (at < text_.size() && (text_[at] == '-' || text_[at] == '+')) tag.last_sign = text_[at++];
    if (!text_.substr(at).starts_with("%}")) return std::nullopt;
    tag.end = at + 2;
    return tag;
  }

  bool raw_block() {
    const auto begin = bare_tag(at_, "raw");
    if (!begin) return false;
    count_lines(text_.substr(at_, begin->end - at_));
    at_ = begin->end;
    skip_after(begin->last_sign, false);
    if (at_ == text_.size()) return true;  // as in Jinja
    for (size_t i = at_; (i = text_.find("{%", i)) != std::string_view::npos; ++i) {
      const auto end = bare_tag(i, "endraw");
      if (!end) continue;
      at_line_start_ = false;
      add_stripped(text_.substr(at_, i - at_), false, end->first_sign);
      count_lines(text_.substr(i, end->end - i));
      at_ = end->end;
      skip_after(end->last_sign, true);
      return true;
    }
    template_error(line_, "a raw block does not end");
  }

  // The tokens between {{ and }}, or {% and %}.
  void inside(Token::Kind begin, Token::Kind end, char closer) {
    tokens_.push_back({begin, "", line_});
    at_ += 2;
    if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == '+')) ++at_;
    std::string open;  // brackets that wait for their partner
    for (;;) {
      skip_space();
      if (at_ >= text_.size()) template_error(line_, "a tag does not end");
      if (open.empty()) {
        const bool signed_end = (text_[at_] == '-' || (text_[at_] == '+' && closer == '%')) && at_ + 2 < text_.size() &&
                                text_[at_ + 1] == closer && text_[at_ + 2] == '}';
        if (signed_end || (text_[at_] == closer && at_ + 1 < text_.size() && text_[at_ + 1] == '}')) {
          const char sign = signed_end ? text_[at_] : ' ';
          tokens_.push_back({end, "", line_});
          at_ += signed_end ? 3 : 2;
          skip_after(sign, closer == '%');
          return;
        }
      }
      const char c = text_[at_];
      if (is_name_start(c)) {
        name();
      } else if (is_digit(c)) {
        number();
      } else if (c == '"' || c == '\'') {
        string();
      } else {
        operation(open);
      }
    }
  }

  void skip_space() {
    const size_t begin = at_;
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
    count_lines(text_.substr(begin, at_ - begin));
  }

  void name() {
    const size_t begin = at_;
    while (at_ < text_.size() && (is_name_start(text_[at_]) || is_digit(text_[at_]))) ++at_;
    add(Token::Kind::Name, text_.substr(begin, at_ - begin));
  }

  void number() {
    std::string digits;
    bool is_float = false;
    const auto run = [&](auto is) {
      const size_t before = digits.size();
      for (; at_ < text_.size() && (is(text_[at_]) || (text_[at_] == '_' && at_ + 1 < text_.size() && is(text_[at_ + 1]))); ++at_) {
        if (text_[at_] != '_') digits += text_[at_];
      }
      return digits.size() > before;
    };
    const char base = at_ + 2 < text_.size() && text_[at_] == '0' ? static_cast<char>(text_[at_ + 1] | 0x20) : ' ';
    if (base == 'x' || base == 'b' || base == 'o') {
      digits = {'0', base};
      at_ += 2;
      const auto is_base_digit = [&](char c) {
        const char l = static_cast<char>(c | 0x20);
        return base == 'x' ? is_digit(c) || (l >= 'a' && l <= 'f') : c >= '0' && c <= (base == 'b' ? '1' : '7');
      };
      if (!run(is_base_digit)) template_error(line_, "a malformed number");
    } else {
      run(is_digit);
      if (at_ + 1 < text_.size() && text_[at_] == '.' && is_digit(text_[at_ + 1])) {
        is_float = true;
        digits += text_[at_++];
        run(is_digit);
      }
      size_t exponent = at_ + 1;
      if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) ++exponent;
      if (exponent < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E') && is_digit(text_[exponent])) {
        is_float = true;
        digits += text_.substr(at_, exponent - at_);
        at_ = exponent;
        run(is_digit);
      }
    }
    tokens_.push_back({is_float ? Token::Kind::Float : Token::Kind::Integer, digits, line_});
  }

  void string() {
    const int line = line_;
    const char quote = text_[at_++];
    std::string value;
    for (;;) {
      if (at_ >= text_.size()) template_error(line, "a string does not end");
      const char c = text_[at_++];
      if (c == quote) break;
      if (c == '\n') ++line_;
      if (c == '\\' && at_ < text_.size()) {
        escape(value);
      } else {
        value += c;
      }
    }
    tokens_.push_back({Token::Kind::String, std::move(value), line});
  }

  // Python's escapes; unknown ones stay as they are.
  void escape(std::string& value) {
    const char c = text_[at_++];
    const auto code = [&](size_t count) {
      uint32_t n = 0;
      for (size_t i = 0; i < count; ++i) {
        const char d = at_ < text_.size() ? text_[at_] : ' ';
        const char l = static_cast<char>(d | 0x20);
        if (!is_digit(d) && (l < 'a' || l > 'f')) template_error(line_, "a truncated escape in a string");
        n = n << 4 | static_cast<uint32_t>(is_digit(d) ? d - '0' : l - 'a' + 10);
        ++at_;
      }
      if (n > 0x10FFFF || (n >= 0xD800 && n <= 0xDFFF)) template_error(line_, "an escape in a string is not a character");
      tokenizer::append_utf8(value, n);
    };
    switch (c) {
      case '\n': ++line_; break;
      case 'n': value += '\n'; break;
      case 't': value += '\t'; break;
      case 'r': value += '\r'; break;
      case 'a': value += '\a'; break;
      case 'b': value += '\b'; break;
      case 'f': value += '\f'; break;
      case 'v': value += '\v'; break;
      case '\\':
      case '\'':
      case '"': value += c; break;
      case 'x': code(2); break;
      case 'u': code(4); break;
      case 'U': code(8); break;
      default:
        if (c >= '0' && c <= '7') {
          uint32_t n = static_cast<uint32_t>(c - '0');
          for (int i = 0; i < 2 && at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '7'; ++i)
            n = n * 8 + static_cast<uint32_t>(text_[at_++] - '0');
          tokenizer::append_utf8(value, n);
        } else {
          value += {'\\', c};
        }
    }
  }

  void operation(std::string& open) {
    static constexpr std::string_view kTwo[] = {"==", "!=", ">=", "<=", "//", "**"};
    const std::string_view rest = text_.substr(at_);
    std::string_view op = rest.substr(0, 1);
    for (const std::string_view two : kTwo) {
      if (rest.starts_with(two)) op = two;
    }
    if (std::string_view("+-/*%~[](){}<>=.:|,;").find(op[0]) == std::string_view::npos && op.size() == 1) {
      template_error(line_, fmt::format("unexpected character '{}'", rest.substr(0, tokenizer::utf8_length(op[0]))));
    }
    if (op == "(" || op == "[" || op == "{") {
      open += op == "(" ? ')' : op == "[" ? ']' : '}';
    } else if (op == ")" || op == "]" || op == "}") {
      if (open.empty() || open.back() != op[0]) template_error(line_, fmt::format("unexpected '{}'", op));
      open.pop_back();
    }
    tokens_.push_back({Token::Kind::Operator, std::string(op), line_});
    at_ += op.size();
  }

  std::string source_;
  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace tokamak::llm::jinja
