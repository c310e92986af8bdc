// printf-style formatting of Python strings: the conversions that templates use.

#include <cmath>

#include "llm/template/operators.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::jinja {

namespace {

constexpr int kMaxWidth = 1000, kMaxPrecision = 100;

struct Conversion {
  bool left = false, zero = false, plus = false, space = false;
  int width = 0, precision = -1;
  char kind = 0;
};

std::string number_text(const Conversion& c, const Value& v) {
  const auto number = v.as_number();
  if (!number) {
    require_defined(v);
    type_error(fmt::format("%{} format: a number is required, not {}", c.kind, type_name(v)));
  }
  std::string digits;
  bool negative;
  if (c.kind == 'f' || c.kind == 'F' || c.kind == 'e' || c.kind == 'g') {
    negative = std::signbit(*number);
    const int precision = c.precision < 0 ? 6 : c.precision;
    const double d = std::abs(*number);
    digits = c.kind == 'e'   ? fmt::format("{:.{}e}", d, precision)
             : c.kind == 'g' ? fmt::format("{:.{}g}", d, precision)
                             : fmt::format("{:.{}f}", d, precision);
  } else {
    auto i = v.as_integer();
    if (!i) {
      if (c.kind == 'x' || c.kind == 'X' || c.kind == 'o') type_error(fmt::format("%{} format: an integer is required", c.kind));
      if (!(std::abs(*number) < 9e18)) type_error("an integer does not fit 64 bits");
      i = static_cast<int64_t>(*number);
    }
    negative = *i < 0;
    const uint64_t u = negative ? 0 - static_cast<uint64_t>(*i) : static_cast<uint64_t>(*i);
    digits = c.kind == 'x'   ? fmt::format("{:x}", u)
             : c.kind == 'X' ? fmt::format("{:X}", u)
             : c.kind == 'o' ? fmt::format("{:o}", u)
                             : std::to_string(u);
    if (static_cast<int>(digits.size()) < c.precision) digits.insert(0, static_cast<size_t>(c.precision) - digits.size(), '0');
  }
  const std::string sign = negative ? "-" : c.plus ? "+" : c.space ? " " : "";
  const int missing = c.width - static_cast<int>(sign.size() + digits.size());
  if (c.zero && !c.left && missing > 0) digits.insert(0, static_cast<size_t>(missing), '0');
  return sign + digits;
}

}  // namespace

std::string format_percent(std::string_view format, const Value& arguments, Budget& budget) {
  const List* list = arguments.as_list();
  const bool tuple = list && list->kind == List::Kind::Tuple;
  size_t used = 0;
  const auto next = [&]() -> const Value& {
    if (tuple ? used >= list->items.size() : used > 0) type_error("not enough arguments for format string");
    return tuple ? list->items[used++] : (++used, arguments);
  };
  std::string out;
  for (size_t at = 0; at < format.size();) {
    const size_t percent = format.find('%', at);
    budget.append(out, format.substr(at, percent == std::string_view::npos ? percent : percent - at));
    if (percent == std::string_view::npos) break;
    at = percent + 1;
    Conversion c;
    const Value* named = nullptr;
    if (at < format.size() && format[at] == '(') {
      const size_t close = format.find(')', at);
      const Dict* dict = arguments.as_dict();
      if (close == std::string_view::npos || !dict) type_error("format requires a mapping");
      const std::string_view key = format.substr(at + 1, close - at - 1);
      named = dict->find(key);
      if (!named) type_error(fmt::format("the mapping has no key '{}'", key));
      at = close + 1;
    }
    for (; at < format.size(); ++at) {
      if (format[at] == '-') c.left = true;
      else if (format[at] == '0') c.zero = true;
      else if (format[at] == '+') c.plus = true;
      else if (format[at] == ' ') c.space = true;
      else if (format[at] != '#') break;
    }
    const auto integer = [&](int limit) {
      int n = 0;
      for (; at < format.size() && format[at] >= '0' && format[at] <= '9'; ++at) {
        n = n * 10 + (format[at] - '0');
        if (n > limit) type_error(fmt::format("a format width or precision of more than {}", limit));
      }
      return n;
    };
    c.width = integer(kMaxWidth);
    if (at < format.size() && format[at] == '.') ++at, c.precision = integer(kMaxPrecision);
    if (at >= format.size()) type_error("incomplete format");
    c.kind = format[at++];
    std::string text;
    switch (c.kind) {
      case '%': budget.append(out, "%"); continue;
      case 's':
      case 'r':
      case 'a': {
        const Value& v = named ? *named : next();
        text = c.kind == 's' ? to_text(v, budget) : repr(v, budget);
        if (c.precision >= 0) {
          size_t end = 0;
          for (int i = 0; i < c.precision && end < text.size(); ++i) end += tokenizer::utf8_length(text[end]);
          text.resize(end);
        }
        break;
      }
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
      case 'f':
      case 'F':
      case 'e':
      case 'g': text = number_text(c, named ? *named : next()); break;
      default: type_error(fmt::format("unsupported format character '{}'", c.kind));
    }
    const size_t n = tokenizer::count_characters(text), width = static_cast<size_t>(c.width);
    if (n < width) text.insert(c.left ? text.size() : 0, width - n, ' ');
    budget.append(out, text);
  }
  if (tuple ? used < list->items.size() : used == 0 && !arguments.as_dict()) {
    type_error("not all arguments converted during string formatting");
  }
  return out;
}

}  // namespace tokamak::llm::jinja
