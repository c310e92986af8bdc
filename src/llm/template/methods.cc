// Methods of strings, lists and mappings. Those that change their object are refused, as in Jinja's immutable sandbox.

#include <algorithm>
#include <array>

#include "llm/template/interpreter.h"
#include "llm/template/operators.h"
#include "llm/template/text_functions.h"
#include "llm/tokenizer/unicode.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::jinja {

namespace {

// The bound arguments of one call, with their Python types.
class Bound {
 public:
  Bound(std::string_view method, const Arguments& args, const std::vector<std::string_view>& parameters)
      : method_(method), values_(args.bind(method, parameters)) {}

  bool has(size_t i) const { return values_[i] && !values_[i]->is_none(); }
  const Value& value(size_t i) const {
    if (!values_[i]) type_error(fmt::format("{}() needs more arguments", method_));
    return *values_[i];
  }
  std::string_view text(size_t i) const {
    const Value& v = value(i);
    require_defined(v);
    if (!v.string()) type_error(fmt::format("{}() needs a string, not '{}'", method_, type_name(v)));
    return *v.string();
  }
  std::optional<std::string_view> optional_text(size_t i) const { return has(i) ? std::optional(text(i)) : std::nullopt; }
  int64_t integer(size_t i, int64_t fallback) const {
    if (!has(i)) return fallback;
    require_defined(*values_[i]);
    const auto n = values_[i]->as_integer();
    if (!n) type_error(fmt::format("{}() needs an integer, not '{}'", method_, type_name(*values_[i])));
    return *n;
  }

 private:
  std::string_view method_;
  std::vector<std::optional<Value>> values_;
};

using StringMethod = Value (*)(Interpreter& in, std::string_view text, std::string_view name, const Arguments& args);

Value texts(const std::vector<std::string_view>& parts, Interpreter& in) {
  in.budget.spend(parts.size());
  std::vector<Value> items(parts.begin(), parts.end());
  return Value::list(std::move(items));
}

Value strip_method(Interpreter&, std::string_view text, std::string_view name, const Arguments& args) {
  const Side side = name == "lstrip" ? Side::Left : name == "rstrip" ? Side::Right : Side::Both;
  return strip(text, side, Bound(name, args, {"chars"}).optional_text(0));
}

Value split_method(Interpreter& in, std::string_view text, std::string_view name, const Arguments& args) {
  const Bound bound(name, args, {"sep", "maxsplit"});
  const auto separator = bound.optional_text(0);
  if (separator && separator->empty()) type_error("empty separator");
  return texts(split(text, separator, bound.integer(1, -1), name == "rsplit"), in);
}

Value split_lines_method(Interpreter& in, std::string_view text, std::string_view name, const Arguments& args) {
  const auto bound = args.bind(name, {"keepends"});
  return texts(split_lines(text, bound[0] && truth(*bound[0])), in);
}

Value case_method(Interpreter&, std::string_view text, std::string_view name, const Arguments& args) {
  const Bound bound(name, args, {});
  if (name == "upper") return tokenizer::to_upper(text);
  if (name == "title") return title(text);
  if (name == "capitalize") return capitalize(text);
  if (name != "swapcase") return tokenizer::to_lower(text);  // lower, casefold
  std::string out;
  for (const std::string_view c : characters(text)) {
    size_t at = 0;
    out += tokenizer::is_upper(tokenizer::next_code(c, at)) ? tokenizer::to_lower(c) : tokenizer::to_upper(c);
  }
  return out;
}

// startswith, endswith: a string or a tuple of strings, and bounds in characters.
Value affix_method(Interpreter& in, std::string_view text, std::string_view name, const Arguments& args) {
  const Bound bound(name, args, {"prefix", "start", "end"});
  Value part = Value(text);
  if (bound.has(1) || bound.has(2)) {
    part = get_slice(part, bound.has(1) ? bound.value(1) : Value(None()), bound.has(2) ? bound.value(2) : Value(None()), None(), in.budget);
  }
  const std::string_view subject = *part.string();
  const auto fits = [&](std::string_view affix) { return name == "startswith" ? subject.starts_with(affix) : subject.ends_with(affix); };
  const List* list = bound.value(0).as_list();
  if (!list || list->kind != List::Kind::Tuple) return fits(bound.text(0));
  return std::any_of(list->items.begin(), list->items.end(), [&](const Value& v) {
    if (!v.string()) type_error(fmt::format("{}() needs strings in the tuple", name));
    return fits(*v.string());
  });
}

Value replace_method(Interpreter& in, std::string_view text, std::string_view name, const Arguments& args) {
  const Bound bound(name, args, {"old", "new", "count"});
  return replace(text, bound.text(0), bound.text(1), bound.integer(2, -1), in.budget);
}

Value join_method(Interpreter& in, std::string_view text, std::string_view name, const Arguments& args) {
  const Bound bound(name, args, {"iterable"});
  std::string out;
  bool first = true;
  for (const Value& item : iterate(bound.value(0), in.budget)) {
    require_defined(item);
    if (!item.string()) type_error(fmt::format("join() needs strings, found '{}'", type_name(item)));
    if (!std::exchange(first, false)) in.budget.append(out, text);
    in.budget.append(out, *item.string());
  }
  return out;
}

// find, rfind, index, rindex, in characters
Value find_text_method(Interpreter&, std::string_view text, std::string_view name, const Arguments& args) {
  const std::string_view part = Bound(name, args, {"sub"}).text(0);
  const size_t at = name.starts_with('r') ? text.rfind(part) : text.find(part);
  if (at != std::string_view::npos) return tokenizer::count_characters(text.substr(0, at));
  if (name.ends_with("index")) type_error("substring not found");
  return -1;
}

Value count_method(Interpreter&, std::string_view text, std::string_view name, const Arguments& args) {
  const std::string_view part = Bound(name, args, {"sub"}).text(0);
  if (part.empty()) return tokenizer::count_characters(text) + 1;
  int64_t n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string_view::npos; at += part.size()) ++n;
  return n;
}

Value remove_affix_method(Interpreter&, std::string_view text, std::string_view name, const Arguments& args) {
  const std::string_view affix = Bound(name, args, {"affix"}).text(0);
  if (name == "removeprefix" && text.starts_with(affix)) text.remove_prefix(affix.size());
  if (name == "removesuffix" && text.ends_with(affix)) text.remove_suffix(affix.size());
  return text;
}

Value partition_method(Interpreter&, std::string_view text, std::string_view name, const Arguments& args) {
  const std::string_view separator = Bound(name, args, {"sep"}).text(0);
  if (separator.empty()) type_error("empty separator");
  const bool right = name == "rpartition";
  const size_t at = right ? text.rfind(separator) : text.find(separator);
  std::array<std::string_view, 3> parts = {right ? "" : text, "", right ? text : ""};
  if (at != std::string_view::npos) parts = {text.substr(0, at), separator, text.substr(at + separator.size())};
  return Value::list(std::vector<Value>(parts.begin(), parts.end()), List::Kind::Tuple);
}

// ljust, rjust, center, zfill
Value pad_method(Interpreter& in, std::string_view text, std::string_view name, const Arguments& args) {
  const Bound bound(name, args, {"width", "fillchar"});
  const std::string fill(name == "zfill" ? "0" : bound.optional_text(1).value_or(" "));
  if (fill.empty() || tokenizer::utf8_length(fill[0]) != fill.size()) type_error("the fill character must be exactly one character");
  const int64_t missing = bound.integer(0, 0) - static_cast<int64_t>(tokenizer::count_characters(text));
  if (missing <= 0) return text;
  in.budget.spend_bytes(text.size() + static_cast<size_t>(missing) * fill.size());
  const auto filling = [&](int64_t n) {
    std::string out;
    for (int64_t i = 0; i < n; ++i) out += fill;
    return out;
  };
  if (name == "ljust") return std::string(text) + filling(missing);
  if (name == "center") {
    const int64_t left = missing / 2 + (missing & bound.integer(0, 0) & 1);
    return filling(left) + std::string(text) + filling(missing - left);
  }
  const bool signed_number = name == "zfill" && (text.starts_with('-') || text.starts_with('+'));
  return std::string(text.substr(0, signed_number)) + filling(missing) + std::string(text.substr(signed_number));
}

// isdigit, isalpha, ...: every character has the property, and there is one
Value class_method(Interpreter&, std::string_view text, std::string_view name, const Arguments& args) {
  const Bound bound(name, args, {});
  if (name == "isascii") return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  bool cased = false, good = !text.empty();
  for (size_t at = 0; at < text.size();) {
    const char32_t c = tokenizer::next_code(text, at);
    const bool letter = tokenizer::is_letter(c), digit = tokenizer::is_numeric(c);
    cased = cased || tokenizer::is_upper(c) || tokenizer::is_lower(c);
    if (name == "isspace") good = good && (tokenizer::is_whitespace(c) || (c >= 0x1C && c <= 0x1F));
    if (name == "isalpha") good = good && letter;
    if (name == "isalnum") good = good && (letter || digit);
    if (name == "isdigit" || name == "isdecimal" || name == "isnumeric") good = good && digit;
    if (name == "isupper") good = good && !tokenizer::is_lower(c);
    if (name == "islower") good = good && !tokenizer::is_upper(c);
  }
  return good && (cased || (name != "isupper" && name != "islower"));
}

// str.format with {}, {0} and {name}; no conversions or format specifications.
Value format_method(Interpreter& in, std::string_view text, std::string_view, const Arguments& args) {
  std::string out;
  size_t automatic = 0;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if ((c == '{' || c == '}') && at + 1 < text.size() && text[at + 1] == c) {
      in.budget.append(out, text.substr(at, 1));
      at += 2;
      continue;
    }
    if (c != '{') {
      if (c == '}') type_error("single '}' in a format string");
      const size_t n = tokenizer::utf8_length(c);
      in.budget.append(out, text.substr(at, n));
      at += n;
      continue;
    }
    const size_t close = text.find('}', at);
    if (close == std::string_view::npos) type_error("a field of a format string does not end");
    const std::string_view field = text.substr(at + 1, close - at - 1);
    at = close + 1;
    if (field.find_first_of("!:.[{") != std::string_view::npos) type_error("format(): only {}, {0} and {name} are supported");
    const Value* value = nullptr;
    if (field.empty() || std::all_of(field.begin(), field.end(), [](char d) { return d >= '0' && d <= '9'; })) {
      size_t index = field.empty() ? automatic++ : 0;
      for (const char d : field) index = std::min<size_t>(index * 10 + static_cast<size_t>(d - '0'), 1u << 20);
      if (index < args.positional.size()) value = &args.positional[index];
    } else {
      for (const auto& [name, v] : args.named) {
        if (name == field) value = &v;
      }
    }
    if (!value) type_error(fmt::format("format(): no argument for '{{{}}}'", field));
    in.budget.append(out, to_text(*value, in.budget));
  }
  return out;
}

struct StringEntry {
  std::string_view name;
  StringMethod method;
};

constexpr StringEntry kStringMethods[] = {
    {"strip", strip_method},
    {"lstrip", strip_method},
    {"rstrip", strip_method},
    {"split", split_method},
    {"rsplit", split_method},
    {"splitlines", split_lines_method},
    {"upper", case_method},
    {"lower", case_method},
    {"casefold", case_method},
    {"title", case_method},
    {"capitalize", case_method},
    {"swapcase", case_method},
    {"startswith", affix_method},
    {"endswith", affix_method},
    {"replace", replace_method},
    {"join", join_method},
    {"find", find_text_method},
    {"rfind", find_text_method},
    {"index", find_text_method},
    {"rindex", find_text_method},
    {"count", count_method},
    {"removeprefix", remove_affix_method},
    {"removesuffix", remove_affix_method},
    {"partition", partition_method},
    {"rpartition", partition_method},
    {"ljust", pad_method},
    {"rjust", pad_method},
    {"center", pad_method},
    {"zfill", pad_method},
    {"isspace", class_method},
    {"isalpha", class_method},
    {"isalnum", class_method},
    {"isdigit", class_method},
    {"isdecimal", class_method},
    {"isnumeric", class_method},
    {"isupper", class_method},
    {"islower", class_method},
    {"isascii", class_method},
    {"format", format_method},
};

Value bind_method(std::string_view name, std::function<Value(Interpreter&, Arguments&)> call) {
  auto made = std::make_shared<Callable>();
  made->name = name;
  made->call = std::move(call);
  return Value(std::shared_ptr<const Callable>(std::move(made)));
}

Value find_string_method(const Value& v, std::string_view name) {
  for (const StringEntry& entry : kStringMethods) {
    if (entry.name != name) continue;
    return bind_method(name, [v, &entry](Interpreter& in, Arguments& args) {
      in.budget.spend(1 + v.string()->size() / 16);
      return entry.method(in, *v.string(), entry.name, args);
    });
  }
  return Undefined{};
}

Value pairs(const Dict& dict) {
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries()) items.push_back(Value::list({key, value}, List::Kind::Tuple));
  return Value::list(std::move(items));
}

Value find_dict_method(const Value& v, std::string_view name) {
  if (name == "items" || name == "keys" || name == "values" || name == "copy") {
    return bind_method(name, [v, name = std::string(name)](Interpreter& in, Arguments& args) {
      args.bind(name, {});
      const Dict& dict = *v.as_dict();
      in.budget.spend(dict.entries().size());
      if (name == "copy") return v;
      if (name == "items") return pairs(dict);
      std::vector<Value> items;
      for (const auto& [key, value] : dict.entries()) items.push_back(name == "keys" ? key : value);
      return Value::list(std::move(items));
    });
  }
  if (name == "get") {
    return bind_method(name, [v](Interpreter&, Arguments& args) {
      const auto bound = args.bind("get", {"key", "default"});
      if (!bound[0]) type_error("get() needs a key");
      const Value* found = v.as_dict()->find(*bound[0]);
      return found ? *found : bound[1].value_or(None());
    });
  }
  return Undefined{};
}

Value find_list_method(const Value& v, std::string_view name) {
  if (name == "copy" && v.as_list()->kind == List::Kind::List) {
    return bind_method(name, [v](Interpreter&, Arguments&) { return v; });
  }
  if (name == "index" || name == "count") {
    return bind_method(name, [v, name = std::string(name)](Interpreter& in, Arguments& args) -> Value {
      const auto bound = args.bind(name, {"value"});
      if (!bound[0]) type_error(fmt::format("{}() needs a value", name));
      int64_t n = 0;
      const auto& items = v.as_list()->items;
      for (size_t i = 0; i < items.size(); ++i) {
        if (!equals(items[i], *bound[0], in.budget)) continue;
        if (name == "index") return i;
        ++n;
      }
      if (name == "index") type_error("the value is not in the list");
      return n;
    });
  }
  return Undefined{};
}

bool changes_its_object(const Value& v, std::string_view name) {
  static constexpr std::string_view kList[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
  static constexpr std::string_view kDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
  if (const List* l = v.as_list())
    return l->kind == List::Kind::List && std::find(std::begin(kList), std::end(kList), name) != std::end(kList);
  return v.as_dict() && std::find(std::begin(kDict), std::end(kDict), name) != std::end(kDict);
}

}  // namespace

Value find_method(const Value& v, std::string_view name) {
  if (changes_its_object(v, name)) {
    return undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe", name, type_name(v)));
  }
  if (v.string()) return find_string_method(v, name);
  if (v.as_dict()) return find_dict_method(v, name);
  if (v.as_list()) return find_list_method(v, name);
  return Undefined{};
}

}  // namespace tokamak::llm::jinja
