// The filters templates use. Reference: https://jinja.palletsprojects.com/en/stable/templates/#builtin-filters; tojson is the one of
// `transformers`.

#include <algorithm>
#include <charconv>
#include <cmath>

#include "llm/template/interpreter.h"
#include "llm/template/operators.h"
#include "llm/template/text_functions.h"
#include "llm/tokenizer/unicode.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::jinja {

namespace {

using In = Interpreter;
using Args = Arguments;
using Optional = std::optional<Value>;

bool flag(const Optional& v) { return v && truth(*v); }

int64_t integer(const Optional& v, int64_t fallback, std::string_view filter) {
  if (!v || v->is_none()) return fallback;
  require_defined(*v);
  const auto i = v->as_integer();
  if (!i) type_error(fmt::format("{} needs an integer, not '{}'", filter, type_name(*v)));
  return *i;
}

// Attribute paths: "function.name", "parts.0", or an integer.
std::vector<Value> attribute_path(const Value& attribute) {
  if (!attribute.string()) return {attribute};
  std::vector<Value> path;
  for (const std::string_view part : split(*attribute.string(), ".", -1, false)) {
    int64_t index = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    path.push_back(error == std::errc() && end == part.data() + part.size() ? Value(index) : Value(part));
  }
  return path;
}

Value follow(In& in, Value v, const std::vector<Value>& path, const Optional& fallback = {}) {
  for (const Value& key : path) {
    v = get_item(v, key, in.budget);
    if (fallback && v.is_undefined()) v = *fallback;
  }
  return v;
}

Value fold_case(const Value& v) { return v.string() ? Value(tokenizer::to_lower(*v.string())) : v; }

// Items with what they are ordered by: the attribute or themselves, without case unless told.
std::vector<std::pair<Value, Value>> keyed(In& in, const Value& input, const Optional& attribute, bool case_sensitive) {
  std::vector<std::pair<Value, Value>> items;
  const auto path = attribute && !attribute->is_none() ? attribute_path(*attribute) : std::vector<Value>();
  for (Value& item : iterate(input, in.budget)) {
    Value key = follow(in, item, path);
    items.emplace_back(case_sensitive ? key : fold_case(key), std::move(item));
  }
  return items;
}

Value values_of(const std::vector<std::pair<Value, Value>>& items, List::Kind kind = List::Kind::List) {
  std::vector<Value> values;
  values.reserve(items.size());
  for (const auto& [key, value] : items) values.push_back(value);
  return Value::list(std::move(values), kind);
}

std::string text_of(In& in, const Value& v) { return to_text(v, in.budget); }

// Text

Value upper(In& in, const Value& v, const Args&) { return tokenizer::to_upper(text_of(in, v)); }
Value lower(In& in, const Value& v, const Args&) { return tokenizer::to_lower(text_of(in, v)); }
Value capitalize_filter(In& in, const Value& v, const Args&) { return capitalize(text_of(in, v)); }
Value string(In& in, const Value& v, const Args&) { return v.string() ? v : Value(text_of(in, v)); }
Value safe(In& in, const Value& v, const Args&) { return text_of(in, v); }

// Words begin behind spaces, hyphens and opening brackets.
Value title_filter(In& in, const Value& v, const Args&) {
  const std::string text = text_of(in, v);
  std::string out;
  bool starts = true;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = tokenizer::next_code(text, at);
    const std::string_view character = std::string_view(text).substr(begin, at - begin);
    out += starts ? tokenizer::to_upper(character) : tokenizer::to_lower(character);
    starts = tokenizer::is_whitespace(c) || (c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) != std::string_view::npos);
  }
  return out;
}

Value trim(In& in, const Value& v, const Args& args) {
  const auto bound = args.bind("trim", {"chars"});
  std::optional<std::string_view> set;
  if (bound[0] && bound[0]->string()) set = *bound[0]->string();
  return strip(text_of(in, v), Side::Both, set);
}

Value replace_filter(In& in, const Value& v, const Args& args) {
  const auto bound = args.bind("replace", {"old", "new", "count"});
  if (!bound[0] || !bound[1]) type_error("replace needs two arguments");
  return replace(text_of(in, v), text_of(in, *bound[0]), text_of(in, *bound[1]), integer(bound[2], -1, "replace"), in.budget);
}

Value indent(In& in, const Value& v, const Args& args) {
  const auto bound = args.bind("indent", {"width", "first", "blank"});
  std::string indention;
  if (bound[0] && bound[0]->string()) {
    indention = *bound[0]->string();
  } else {
    const int64_t width = integer(bound[0], 4, "indent");
    in.budget.spend_bytes(static_cast<size_t>(std::max<int64_t>(width, 0)));
    indention.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const std::string text = text_of(in, v) + "\n";
  std::string out;
  if (flag(bound[1])) in.budget.append(out, indention);
  bool first_line = true;
  for (const std::string_view line : split_lines(text, false)) {
    if (!std::exchange(first_line, false)) {
      in.budget.append(out, "\n");
      if (!line.empty() || flag(bound[2])) in.budget.append(out, indention);
    }
    in.budget.append(out, line);
  }
  return out;
}

Value escape(In& in, const Value& v, const Args&) {
  std::string out;
  for (const char c : text_of(in, v)) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '\'': out += "&#39;"; break;
      case '"': out += "&#34;"; break;
      default: out += c;
    }
  }
  in.budget.spend_bytes(out.size());
  return out;
}

Value format_filter(In& in, const Value& v, const Args& args) {
  if (args.named.empty()) return format_percent(text_of(in, v), Value::list(args.positional, List::Kind::Tuple), in.budget);
  Dict dict;
  for (const auto& [name, value] : args.named) dict.set(name, value);
  return format_percent(text_of(in, v), Value::dict(std::move(dict)), in.budget);
}

Value join(In& in, const Value& v, const Args& args) {
  const auto bound = args.bind("join", {"d", "attribute"});
  const std::string separator = bound[0] ? text_of(in, *bound[0]) : "";
  const auto path = bound[1] && !bound[1]->is_none() ? attribute_path(*bound[1]) : std::vector<Value>();
  std::string out;
  bool first = true;
  for (const Value& item : iterate(v, in.budget)) {
    if (!std::exchange(first, false)) in.budget.append(out, separator);
    in.budget.append(out, text_of(in, follow(in, item, path)));
  }
  return out;
}

Value tojson(In& in, const Value& v, const Args& args) {
  const auto bound = args.bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = flag(bound[0]);
  style.sort_keys = flag(bound[3]);
  std::string indention;
  if (bound[1] && !bound[1]->is_none()) {
    constexpr int64_t kMaxIndent = 100;
    if (bound[1]->string()) {
      indention = *bound[1]->string();
    } else {
      indention.assign(static_cast<size_t>(std::clamp<int64_t>(integer(bound[1], 0, "tojson"), 0, kMaxIndent)), ' ');
    }
    style.indent = &indention;
    style.item_separator = ",";
  }
  if (bound[2] && !bound[2]->is_none()) {
    const ListPtr separators = iterate_list(*bound[2], in.budget);
    if (separators->items.size() != 2 || !separators->items[0].string() || !separators->items[1].string()) {
      type_error("tojson: separators should be two strings");
    }
    style.item_separator = *separators->items[0].string();
    style.key_separator = *separators->items[1].string();
  }
  return to_json(v, style, in.budget);
}

// Numbers

Value absolute(In&, const Value& v, const Args&) {
  if (!v.is_number()) {
    require_defined(v);
    type_error(fmt::format("bad operand type for abs(): '{}'", type_name(v)));
  }
  return *v.as_number() < 0 ? negate(v) : v.is_bool() ? Value(*v.as_integer()) : v;
}

std::optional<double> parse_double(std::string_view text) {
  text = strip(text, Side::Both);
  if (text.starts_with('+')) text.remove_prefix(1);
  double d = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), d);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(d) : std::nullopt;
}

std::optional<int64_t> whole(double d) {
  if (!(std::abs(d) < 9.2e18)) return std::nullopt;
  return static_cast<int64_t>(d);
}

Value to_int(In&, const Value& v, const Args& args) {
  const auto bound = args.bind("int", {"default", "base"});
  const Value fallback = bound[0].value_or(0);
  if (const std::string* s = v.string()) {
    const int64_t base = integer(bound[1], 10, "int");
    std::string_view text = strip(*s, Side::Both);
    const bool negative = text.starts_with('-');
    if (negative || text.starts_with('+')) text.remove_prefix(1);
    if (base == 16 && (text.starts_with("0x") || text.starts_with("0X"))) text.remove_prefix(2);
    int64_t i = 0;
    if (base >= 2 && base <= 36 && !text.starts_with('-')) {
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), i, static_cast<int>(base));
      if (error == std::errc() && end == text.data() + text.size()) return negative ? -i : i;
    }
    const auto d = parse_double(*s);
    const auto rounded = d ? whole(*d) : std::nullopt;
    return rounded ? Value(*rounded) : fallback;
  }
  if (const auto i = v.as_integer()) return *i;
  const auto d = v.as_number();
  const auto rounded = d ? whole(*d) : std::nullopt;
  return rounded ? Value(*rounded) : fallback;
}

Value to_float(In&, const Value& v, const Args& args) {
  const auto bound = args.bind("float", {"default"});
  if (const auto d = v.as_number()) return *d;
  if (v.string()) {
    if (const auto d = parse_double(*v.string())) return *d;
  }
  return bound[0].value_or(0.0);
}

Value round_filter(In&, const Value& v, const Args& args) {
  const auto bound = args.bind("round", {"precision", "method"});
  const int64_t precision = std::clamp<int64_t>(integer(bound[0], 0, "round"), -300, 300);
  const std::string method = bound[1] && bound[1]->string() ? *bound[1]->string() : "common";
  if (method != "common" && method != "ceil" && method != "floor") type_error("round: method must be common, ceil or floor");
  const auto d = v.as_number();
  if (!d) {
    require_defined(v);
    type_error(fmt::format("round needs a number, not '{}'", type_name(v)));
  }
  if (v.as_integer() && method == "common" && precision >= 0) return *v.as_integer();
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return std::ceil(*d * scale) / scale;
  if (method == "floor") return std::floor(*d * scale) / scale;
  if (precision < 0) return std::nearbyint(*d * scale) / scale;
  return *parse_double(fmt::format("{:.{}f}", *d, precision));  // rounds the exact binary value, as Python does
}

Value sum(In& in, const Value& v, const Args& args) {
  const auto bound = args.bind("sum", {"attribute", "start"});
  Value total = bound[1].value_or(0);
  for (auto& [key, item] : keyed(in, v, bound[0], true)) total = add(total, key, in.budget);
  return total;
}

// Sequences

Value length_filter(In&, const Value& v, const Args&) { return length(v); }

Value list(In& in, const Value& v, const Args&) { return Value::list(iterate(v, in.budget)); }

Value first(In& in, const Value& v, const Args&) {
  const ListPtr items = iterate_list(v, in.budget);
  return items->items.empty() ? undefined("no first item, the sequence was empty") : items->items.front();
}

Value last(In& in, const Value& v, const Args&) {
  const ListPtr items = iterate_list(v, in.budget);
  return items->items.empty() ? undefined("no last item, the sequence was empty") : items->items.back();
}

Value reverse(In& in, const Value& v, const Args&) {
  if (const std::string* s = v.string()) {
    const auto parts = characters(*s);
    std::string out;
    for (auto it = parts.rbegin(); it != parts.rend(); ++it) out += *it;
    in.budget.spend_bytes(out.size());
    return out;
  }
  std::vector<Value> items = iterate(v, in.budget);
  std::reverse(items.begin(), items.end());
  return Value::list(std::move(items), List::Kind::Generator);
}

Value sort(In& in, const Value& v, const Args& args) {
  const auto bound = args.bind("sort", {"reverse", "case_sensitive", "attribute"});
  auto items = keyed(in, v, bound[2], flag(bound[1]));
  const bool reversed = flag(bound[0]);
  std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) {
    return reversed ? less(b.first, a.first, in.budget) : less(a.first, b.first, in.budget);
  });
  return values_of(items);
}

Value unique(In& in, const Value& v, const Args& args) {
  const auto bound = args.bind("unique", {"case_sensitive", "attribute"});
  std::vector<std::pair<Value, Value>> kept;
  for (auto& item : keyed(in, v, bound[1], flag(bound[0]))) {
    const bool seen = std::any_of(kept.begin(), kept.end(), [&](const auto& k) { return equals(k.first, item.first, in.budget); });
    if (!seen) kept.push_back(std::move(item));
  }
  return values_of(kept, List::Kind::Generator);
}

Value extreme(In& in, const Value& v, const Args& args, bool largest) {
  const auto bound = args.bind(largest ? "max" : "min", {"case_sensitive", "attribute"});
  const auto items = keyed(in, v, bound[1], flag(bound[0]));
  if (items.empty()) return undefined("no aggregated item, sequence was empty");
  const auto before = [&](const auto& a, const auto& b) { return less(a.first, b.first, in.budget); };
  const auto best = largest ? std::max_element(items.begin(), items.end(), before) : std::min_element(items.begin(), items.end(), before);
  return best->second;
}

Value map(In& in, const Value& v, const Args& args) {
  std::vector<Value> out;
  const std::vector<Value> items = iterate(v, in.budget);
  const auto named = [&](std::string_view name) -> Optional {
    for (const auto& [n, value] : args.named) {
      if (n == name) return value;
    }
    return {};
  };
  if (args.positional.empty()) {
    const Optional attribute = named("attribute"), fallback = named("default");
    if (!attribute || args.named.size() != (fallback ? 2u : 1u)) type_error("map needs a filter, or an attribute");
    const auto path = attribute_path(*attribute);
    for (const Value& item : items) out.push_back(follow(in, item, path, fallback));
  } else {
    if (!args.positional[0].string()) type_error("map needs the name of a filter");
    const Args rest{{args.positional.begin() + 1, args.positional.end()}, args.named};
    for (const Value& item : items) out.push_back(apply_filter(in, *args.positional[0].string(), item, rest));
  }
  return Value::list(std::move(out), List::Kind::Generator);
}

// select, reject, selectattr, rejectattr: [attribute,] [test, arguments...]
Value select(In& in, const Value& v, const Args& args, bool keep, bool with_attribute) {
  size_t used = 0;
  std::vector<Value> path;
  if (with_attribute) {
    if (args.positional.empty()) type_error("missing parameter for attribute name");
    path = attribute_path(args.positional[used++]);
  }
  std::string_view test;
  Args rest;
  if (used < args.positional.size()) {
    if (!args.positional[used].string()) type_error("the name of a test should be a string");
    test = *args.positional[used++].string();
    rest = {{args.positional.begin() + static_cast<ptrdiff_t>(used), args.positional.end()}, args.named};
  }
  std::vector<Value> out;
  for (Value& item : iterate(v, in.budget)) {
    const Value subject = follow(in, item, path);
    if ((test.empty() ? truth(subject) : apply_test(in, test, subject, rest)) == keep) out.push_back(std::move(item));
  }
  return Value::list(std::move(out), List::Kind::Generator);
}

// Mappings and the rest

Value items(In& in, const Value& v, const Args&) {
  if (v.is_undefined()) return Value::list({}, List::Kind::Generator);
  if (!v.as_dict()) type_error("can only get item pairs from a mapping");
  Args none;
  return in.call(find_method(v, "items"), none);
}

Value dictsort(In& in, const Value& v, const Args& args) {
  const auto bound = args.bind("dictsort", {"case_sensitive", "by", "reverse"});
  const std::string by = bound[1] && bound[1]->string() ? *bound[1]->string() : "key";
  if (by != "key" && by != "value") type_error("dictsort: you can only sort by either 'key' or 'value'");
  auto pairs = keyed(in, items(in, v, {}), Value(by == "key" ? 0 : 1), flag(bound[0]));
  const bool reversed = flag(bound[2]);
  std::stable_sort(pairs.begin(), pairs.end(), [&](const auto& a, const auto& b) {
    return reversed ? less(b.first, a.first, in.budget) : less(a.first, b.first, in.budget);
  });
  return values_of(pairs);
}

Value default_filter(In&, const Value& v, const Args& args) {
  const auto bound = args.bind("default", {"default_value", "boolean"});
  return v.is_undefined() || (flag(bound[1]) && !truth(v)) ? bound[0].value_or("") : v;
}

Value attr(In& in, const Value& v, const Args& args) {
  const auto bound = args.bind("attr", {"name"});
  if (!bound[0] || !bound[0]->string()) type_error("attr needs a name");
  if (v.as_dict()) return find_method(v, *bound[0]->string());  // attributes only, not items
  return get_attribute(v, *bound[0]->string(), in.budget);
}

struct Entry {
  std::string_view name;
  FilterFunction filter;
};

constexpr Entry kFilters[] = {
    {"abs", absolute},
    {"attr", attr},
    {"capitalize", capitalize_filter},
    {"count", length_filter},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dictsort},
    {"e", escape},
    {"escape", escape},
    {"first", first},
    {"float", to_float},
    {"format", format_filter},
    {"indent", indent},
    {"int", to_int},
    {"items", items},
    {"join", join},
    {"last", last},
    {"length", length_filter},
    {"list", list},
    {"lower", lower},
    {"map", map},
    {"max", [](In& in, const Value& v, const Args& a) { return extreme(in, v, a, true); }},
    {"min", [](In& in, const Value& v, const Args& a) { return extreme(in, v, a, false); }},
    {"reject", [](In& in, const Value& v, const Args& a) { return select(in, v, a, false, false); }},
    {"rejectattr", [](In& in, const Value& v, const Args& a) { return select(in, v, a, false, true); }},
    {"replace", replace_filter},
    {"reverse", reverse},
    {"round", round_filter},
    {"safe", safe},
    {"select", [](In& in, const Value& v, const Args& a) { return select(in, v, a, true, false); }},
    {"selectattr", [](In& in, const Value& v, const Args& a) { return select(in, v, a, true, true); }},
    {"sort", sort},
    {"string", string},
    {"sum", sum},
    {"title", title_filter},
    {"tojson", tojson},
    {"trim", trim},
    {"unique", unique},
    {"upper", upper},
};

}  // namespace

FilterFunction find_filter(std::string_view name) {
  for (const Entry& entry : kFilters) {
    if (entry.name == name) return entry.filter;
  }
  return nullptr;
}

}  // namespace tokamak::llm::jinja
