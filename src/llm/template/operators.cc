#include "llm/template/operators.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "llm/tokenizer/unicode.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::jinja {

namespace {

[[noreturn]] void unsupported_operands(std::string_view op, const Value& a, const Value& b) {
  require_defined(a);
  require_defined(b);
  type_error(fmt::format("unsupported operand types for {}: '{}' and '{}'", op, type_name(a), type_name(b)));
}

// The operation's result in 64 bits; `overflows(a, b, &result)` is one of the compiler's checked operations.
template <class F>
int64_t checked(int64_t a, int64_t b, const F& overflows) {
  int64_t result = 0;
  if (overflows(a, b, &result)) type_error("an integer does not fit 64 bits");
  return result;
}
constexpr auto kAdd = [](int64_t a, int64_t b, int64_t* r) { return __builtin_add_overflow(a, b, r); };
constexpr auto kSubtract = [](int64_t a, int64_t b, int64_t* r) { return __builtin_sub_overflow(a, b, r); };
constexpr auto kMultiply = [](int64_t a, int64_t b, int64_t* r) { return __builtin_mul_overflow(a, b, r); };

struct Integers {
  int64_t a, b;
};
std::optional<Integers> integers(const Value& a, const Value& b) {
  const auto x = a.as_integer(), y = b.as_integer();
  if (!x || !y) return std::nullopt;
  return Integers{*x, *y};
}

struct Doubles {
  double a, b;
};
Doubles doubles(std::string_view op, const Value& a, const Value& b) {
  const auto x = a.as_number(), y = b.as_number();
  if (!x || !y) unsupported_operands(op, a, b);
  return {*x, *y};
}

Value repeat(const Value& v, int64_t count, Budget& budget) {
  const auto n = static_cast<size_t>(std::max<int64_t>(count, 0));
  if (const std::string* s = v.string()) {
    if (!s->empty() && n > SIZE_MAX / s->size()) budget.spend_bytes(SIZE_MAX);
    budget.spend_bytes(s->size() * n);
    std::string out;
    out.reserve(s->size() * n);
    for (size_t i = 0; i < n; ++i) out += *s;
    return Value(std::move(out));
  }
  const List& list = *v.as_list();
  if (!list.items.empty() && n > SIZE_MAX / list.items.size()) budget.spend(SIZE_MAX);
  budget.spend(list.items.size() * n);
  std::vector<Value> items;
  for (size_t i = 0; i < n; ++i) items.insert(items.end(), list.items.begin(), list.items.end());
  return Value::list(std::move(items), list.kind);
}

std::string object_name(const Value& v) { return v.is_none() ? "None" : fmt::format("'{} object'", type_name(v)); }

}  // namespace

Value undefined(std::string message) { return Undefined{std::make_shared<const std::string>(std::move(message))}; }

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t n = tokenizer::utf8_length(text[at]);
    out.push_back(text.substr(at, n));
    at += n;
  }
  return out;
}

bool truth(const Value& v) {
  if (v.is_undefined() || v.is_none()) return false;
  if (const auto n = v.as_number()) return *n != 0;
  if (const std::string* s = v.string()) return !s->empty();
  if (const List* l = v.as_list()) return l->kind == List::Kind::Generator || !l->items.empty();
  if (const Dict* d = v.as_dict()) return !d->entries().empty();
  return true;
}

bool equals(const Value& a, const Value& b, Budget& budget) {
  budget.spend(1);
  if (a.is_number() && b.is_number()) {
    if (const auto n = integers(a, b)) return n->a == n->b;
    return *a.as_number() == *b.as_number();
  }
  if (const std::string* s = a.string(), *t = b.string(); s && t) return *s == *t;
  if (const List* l = a.as_list(), *m = b.as_list(); l && m) {
    if (l == m) return true;
    if (l->kind != m->kind || l->kind == List::Kind::Generator) return false;
    return std::equal(l->items.begin(), l->items.end(), m->items.begin(), m->items.end(),
                      [&](const Value& x, const Value& y) { return equals(x, y, budget); });
  }
  if (const Dict* d = a.as_dict(), *e = b.as_dict(); d && e) {
    if (d == e) return true;
    if (d->entries().size() != e->entries().size()) return false;
    for (const auto& [key, value] : d->entries()) {
      const Value* other = e->find(key);
      if (!other || !equals(value, *other, budget)) return false;
    }
    return true;
  }
  return a.same_object(b);
}

bool less(const Value& a, const Value& b, Budget& budget) {
  budget.spend(1);
  if (a.is_number() && b.is_number()) {
    if (const auto n = integers(a, b)) return n->a < n->b;
    return *a.as_number() < *b.as_number();
  }
  if (const std::string* s = a.string(), *t = b.string(); s && t) return *s < *t;  // UTF-8 sorts as code points do
  if (const List* l = a.as_list(), *m = b.as_list(); l && m && l->kind == m->kind) {
    for (size_t i = 0; i < std::min(l->items.size(), m->items.size()); ++i) {
      if (!equals(l->items[i], m->items[i], budget)) return less(l->items[i], m->items[i], budget);
    }
    return l->items.size() < m->items.size();
  }
  require_defined(a);
  require_defined(b);
  type_error(fmt::format("'<' not supported between '{}' and '{}'", type_name(a), type_name(b)));
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  if (const std::string* s = container.string()) {
    const std::string* part = item.string();
    require_defined(item);
    if (!part) type_error(fmt::format("'in <string>' requires a string, not '{}'", type_name(item)));
    budget.spend(1 + s->size() / 16);
    return s->find(*part) != std::string::npos;
  }
  if (const Dict* d = container.as_dict()) return d->find(item) != nullptr;
  if (container.is_undefined()) return false;
  const ListPtr items = iterate_list(container, budget);
  return std::any_of(items->items.begin(), items->items.end(), [&](const Value& v) { return equals(v, item, budget); });
}

Value add(const Value& a, const Value& b, Budget& budget) {
  if (const auto n = integers(a, b)) return checked(n->a, n->b, kAdd);
  if (const std::string* s = a.string(), *t = b.string(); s && t) {
    budget.spend_bytes(s->size() + t->size());
    return Value(*s + *t);
  }
  if (const List* l = a.as_list(), *m = b.as_list(); l && m && l->kind == m->kind && l->kind != List::Kind::Generator) {
    budget.spend(l->items.size() + m->items.size());
    std::vector<Value> items = l->items;
    items.insert(items.end(), m->items.begin(), m->items.end());
    return Value::list(std::move(items), l->kind);
  }
  const auto [x, y] = doubles("+", a, b);
  return x + y;
}

Value subtract(const Value& a, const Value& b) {
  if (const auto n = integers(a, b)) return checked(n->a, n->b, kSubtract);
  const auto [x, y] = doubles("-", a, b);
  return x - y;
}

Value multiply(const Value& a, const Value& b, Budget& budget) {
  if (const auto n = integers(a, b)) return checked(n->a, n->b, kMultiply);
  const auto is_sequence = [](const Value& v) { return v.string() || v.as_list(); };
  if (is_sequence(a) && b.as_integer()) return repeat(a, *b.as_integer(), budget);
  if (is_sequence(b) && a.as_integer()) return repeat(b, *a.as_integer(), budget);
  const auto [x, y] = doubles("*", a, b);
  return x * y;
}

Value divide(const Value& a, const Value& b) {
  const auto [x, y] = doubles("/", a, b);
  if (y == 0) type_error("division by zero");
  return x / y;
}

Value floor_divide(const Value& a, const Value& b) {
  const auto [x, y] = doubles("//", a, b);
  if (y == 0) type_error("integer division or modulo by zero");
  if (const auto n = integers(a, b)) {
    if (n->b == -1) return checked(0, n->a, kSubtract);
    return n->a / n->b - (n->a % n->b != 0 && (n->a < 0) != (n->b < 0) ? 1 : 0);
  }
  return std::floor(x / y);
}

Value modulo(const Value& a, const Value& b, Budget& budget) {
  if (const std::string* format = a.string()) return Value(format_percent(*format, b, budget));
  const auto [x, y] = doubles("%", a, b);
  if (y == 0) type_error("integer division or modulo by zero");
  if (const auto n = integers(a, b)) {
    if (n->b == -1) return 0;
    const int64_t rest = n->a % n->b;
    return rest != 0 && (rest < 0) != (n->b < 0) ? rest + n->b : rest;
  }
  const double rest = std::fmod(x, y);
  return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
}

Value power(const Value& a, const Value& b) {
  const auto [x, y] = doubles("**", a, b);
  if (const auto n = integers(a, b); n && n->b >= 0) {
    int64_t result = 1, base = n->a;
    for (int64_t exponent = n->b; exponent > 0; exponent >>= 1) {
      if (exponent & 1) result = checked(result, base, kMultiply);
      if (exponent > 1) base = checked(base, base, kMultiply);
    }
    return result;
  }
  return std::pow(x, y);
}

Value negate(const Value& a) {
  if (const auto i = a.as_integer()) return checked(0, *i, kSubtract);
  if (const auto d = a.as_number()) return -*d;
  require_defined(a);
  type_error(fmt::format("bad operand type for unary -: '{}'", type_name(a)));
}

std::string float_text(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  // The shortest digits that read back the same; Python writes an exponent from 1e16 up and below 1e-4.
  char buffer[40];
  const auto scientific = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<size_t>(scientific.ptr - buffer));
  const size_t e = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + e + (text[e + 1] == '+' ? 2 : 1), text.data() + text.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(text);
  const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::fixed);
  std::string out(buffer, static_cast<size_t>(fixed.ptr - buffer));
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

namespace {

void append_text(std::string& out, const Value& v, Budget& budget);

void append_quoted(std::string& out, std::string_view text, Budget& budget) {
  const char quote = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string quoted(1, quote);
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = tokenizer::next_code(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      quoted += {'\\', static_cast<char>(c)};
    } else if (c == '\n' || c == '\r' || c == '\t') {
      quoted += {'\\', c == '\n' ? 'n' : c == '\r' ? 'r' : 't'};
    } else if (tokenizer::is_printable(c)) {
      quoted += text.substr(begin, at - begin);
    } else {
      quoted += c < 0x100     ? fmt::format("\\x{:02x}", static_cast<uint32_t>(c))
                : c < 0x10000 ? fmt::format("\\u{:04x}", static_cast<uint32_t>(c))
                              : fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
    }
  }
  quoted += quote;
  budget.append(out, quoted);
}

void append_repr(std::string& out, const Value& v, Budget& budget) {
  if (const std::string* s = v.string()) return append_quoted(out, *s, budget);
  if (v.is_undefined()) return budget.append(out, "Undefined");
  append_text(out, v, budget);
}

void append_entries(std::string& out, const Dict& dict, Budget& budget) {
  budget.append(out, "{");
  bool first = true;
  for (const auto& [key, value] : dict.entries()) {
    if (!std::exchange(first, false)) budget.append(out, ", ");
    append_repr(out, key, budget);
    budget.append(out, ": ");
    append_repr(out, value, budget);
  }
  budget.append(out, "}");
}

void append_text(std::string& out, const Value& v, Budget& budget) {
  if (v.is_undefined()) return;
  if (v.is_none()) return budget.append(out, "None");
  if (const auto* b = v.get_if<bool>()) return budget.append(out, *b ? "True" : "False");
  if (const auto i = v.as_integer()) return budget.append(out, std::to_string(*i));
  if (const auto d = v.as_number()) return budget.append(out, float_text(*d));
  if (const std::string* s = v.string()) return budget.append(out, *s);
  if (const Dict* d = v.as_dict()) return append_entries(out, *d, budget);
  if (const List* l = v.as_list()) {
    const bool tuple = l->kind == List::Kind::Tuple;
    budget.append(out, tuple ? "(" : "[");
    bool first = true;
    for (const Value& item : l->items) {
      if (!std::exchange(first, false)) budget.append(out, ", ");
      append_repr(out, item, budget);
    }
    return budget.append(out, tuple ? (l->items.size() == 1 ? ",)" : ")") : "]");
  }
  // Objects that only a mistake prints; what they hold may refer to them.
  budget.append(out, fmt::format("<{}>", type_name(v)));
}

}  // namespace

std::string to_text(const Value& v, Budget& budget) {
  std::string out;
  append_text(out, v, budget);
  return out;
}

std::string repr(const Value& v, Budget& budget) {
  std::string out;
  append_repr(out, v, budget);
  return out;
}

size_t length(const Value& v) {
  if (const std::string* s = v.string()) return tokenizer::count_characters(*s);
  if (const List* l = v.as_list()) return l->items.size();
  if (const Dict* d = v.as_dict()) return d->entries().size();
  if (const Loop* l = v.as_loop()) return l->items->items.size();
  if (v.is_undefined()) return 0;
  type_error(fmt::format("object of type '{}' has no length", type_name(v)));
}

bool is_iterable(const Value& v) { return v.string() || v.as_list() || v.as_dict() || v.is_undefined() || v.as_loop(); }

ListPtr iterate_list(const Value& v, Budget& budget) {
  if (const auto* list = v.get_if<ListPtr>()) {
    budget.spend((*list)->items.size());
    return *list;
  }
  auto made = std::make_shared<List>();
  made->items = iterate(v, budget);
  made->depth = v.depth() + 1;
  return made;
}

std::vector<Value> iterate(const Value& v, Budget& budget) {
  std::vector<Value> items;
  if (const List* l = v.as_list()) {
    items = l->items;
  } else if (const Dict* d = v.as_dict()) {
    for (const auto& [key, value] : d->entries()) items.push_back(key);
  } else if (const std::string* s = v.string()) {
    budget.spend(s->size());
    for (const std::string_view c : characters(*s)) items.emplace_back(c);
  } else if (!v.is_undefined()) {
    type_error(fmt::format("'{}' object is not iterable", type_name(v)));
  }
  budget.spend(items.size());
  return items;
}

namespace {

Value loop_attribute(const Loop& loop, std::string_view name) {
  const auto& items = loop.items->items;
  const size_t i = loop.index, n = items.size();
  if (name == "index") return i + 1;
  if (name == "index0") return i;
  if (name == "revindex") return n - i;
  if (name == "revindex0") return n - i - 1;
  if (name == "first") return i == 0;
  if (name == "last") return i + 1 == n;
  if (name == "length") return n;
  if (name == "depth") return 1;  // of recursive loops
  if (name == "depth0") return 0;
  if (name == "previtem") return i > 0 ? items[i - 1] : undefined("there is no previous item");
  if (name == "nextitem") return i + 1 < n ? items[i + 1] : undefined("there is no next item");
  if (name == "cycle") {
    auto cycle = std::make_shared<Callable>();
    cycle->name = "cycle";
    cycle->call = [i](Interpreter&, Arguments& args) {
      if (args.positional.empty()) type_error("no items for cycling given");
      return args.positional[i % args.positional.size()];
    };
    return Value(std::shared_ptr<const Callable>(std::move(cycle)));
  }
  return Undefined{};
}

// A Python attribute; a default-made undefined value when there is none.
Value find_attribute(const Value& v, std::string_view name) {
  if (name.starts_with("__")) return undefined(fmt::format("access to attribute '{}' of {} is unsafe", name, object_name(v)));
  if (const Loop* loop = v.as_loop()) return loop_attribute(*loop, name);
  if (const Namespace* ns = v.as_namespace()) {
    const Value* found = ns->attributes.find(name);
    return found ? *found : Undefined{};
  }
  if (const Callable* function = v.as_callable(); function && name == "name") return function->name;
  return find_method(v, name);
}

bool is_found(const Value& v) {
  const auto* u = v.get_if<Undefined>();
  return !u || u->message;
}

std::optional<Value> find_item(const Value& v, const Value& key, Budget& budget) {
  if (const Dict* d = v.as_dict()) {
    const Value* found = d->find(key);
    return found ? std::optional(*found) : std::nullopt;
  }
  const auto index = key.as_integer();
  if (!index) return std::nullopt;
  const auto place = [&](size_t n) -> std::optional<size_t> {
    const int64_t i = *index < 0 ? *index + static_cast<int64_t>(n) : *index;
    return i >= 0 && i < static_cast<int64_t>(n) ? std::optional(static_cast<size_t>(i)) : std::nullopt;
  };
  if (const List* l = v.as_list()) {
    const auto i = place(l->items.size());
    return i ? std::optional(l->items[*i]) : std::nullopt;
  }
  if (const std::string* s = v.string()) {
    budget.spend(s->size() / 8);
    const auto i = place(tokenizer::count_characters(*s));
    if (!i) return std::nullopt;
    size_t at = 0;
    for (size_t n = 0; n < *i; ++n) at += tokenizer::utf8_length((*s)[at]);
    return Value(std::string_view(*s).substr(at, tokenizer::utf8_length((*s)[at])));
  }
  return std::nullopt;
}

}  // namespace

Value get_attribute(const Value& v, std::string_view name, Budget& budget) {
  require_defined(v);
  Value found = find_attribute(v, name);
  if (is_found(found)) return found;
  if (const Dict* d = v.as_dict()) {
    budget.spend(1);
    if (const Value* item = d->find(name)) return *item;
  }
  return undefined(fmt::format("{} has no attribute '{}'", object_name(v), name));
}

Value get_item(const Value& v, const Value& key, Budget& budget) {
  require_defined(v);
  if (auto item = find_item(v, key, budget)) return std::move(*item);
  if (const std::string* name = key.string()) {
    Value found = find_attribute(v, *name);
    if (is_found(found)) return found;
    return undefined(fmt::format("{} has no attribute '{}'", object_name(v), *name));
  }
  return undefined(fmt::format("{} has no element {}", object_name(v), repr(key, budget)));
}

Value get_slice(const Value& v, const Value& start, const Value& stop, const Value& step, Budget& budget) {
  require_defined(v);
  const auto bound = [](const Value& b, int64_t fallback) {
    if (b.is_none()) return fallback;
    require_defined(b);
    if (const auto i = b.as_integer()) return *i;
    type_error("slice indices must be integers or None");
  };
  const std::string* text = v.string();
  const List* list = v.as_list();
  // Jinja: what cannot be sliced is undefined.
  if (!text && !list) return undefined(fmt::format("{} cannot be sliced", object_name(v)));
  const auto parts = text ? characters(*text) : std::vector<std::string_view>();
  const auto n = static_cast<int64_t>(text ? parts.size() : list->items.size());
  budget.spend(static_cast<size_t>(n) / 4 + 1);
  const int64_t stride = bound(step, 1);
  if (stride == 0) type_error("slice step cannot be zero");
  const int64_t lowest = stride > 0 ? 0 : -1, highest = stride > 0 ? n : n - 1;
  const auto clamp = [&](int64_t i) {
    if (i < 0) i = i < -n ? lowest : std::max(i + n, lowest);
    return std::min(i, highest);
  };
  const int64_t begin = start.is_none() ? (stride > 0 ? 0 : n - 1) : clamp(bound(start, 0));
  const int64_t end = stop.is_none() ? (stride > 0 ? n : -1) : clamp(bound(stop, 0));
  std::string out;
  std::vector<Value> items;
  for (int64_t i = begin; stride > 0 ? i < end : i > end;) {
    if (text) {
      out += parts[static_cast<size_t>(i)];
    } else {
      items.push_back(list->items[static_cast<size_t>(i)]);
    }
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (text) return Value(std::move(out));
  return Value::list(std::move(items), list->kind);
}

}  // namespace tokamak::llm::jinja
