#pragma once
// Python's operators and protocols on template values.

#include <string>
#include <string_view>
#include <vector>

#include "llm/template/budget.h"
#include "llm/template/value.h"

namespace tokamak::llm::jinja {

bool truth(const Value& v);
bool equals(const Value& a, const Value& b, Budget& budget);
// a < b; throws for kinds that have no order.
bool less(const Value& a, const Value& b, Budget& budget);
bool contains(const Value& container, const Value& item, Budget& budget);

Value add(const Value& a, const Value& b, Budget& budget);
Value subtract(const Value& a, const Value& b);
Value multiply(const Value& a, const Value& b, Budget& budget);
Value divide(const Value& a, const Value& b);
Value floor_divide(const Value& a, const Value& b);
Value modulo(const Value& a, const Value& b, Budget& budget);  // of strings: printf-style formatting
Value power(const Value& a, const Value& b);
Value negate(const Value& a);

// str(v)
std::string to_text(const Value& v, Budget& budget);
std::string repr(const Value& v, Budget& budget);
std::string float_text(double d);

// len(v); throws when it has none.
size_t length(const Value& v);
// The items of list(v): of a list, characters of a string, keys of a mapping, none of undefined. Throws when not iterable.
std::vector<Value> iterate(const Value& v, Budget& budget);
ListPtr iterate_list(const Value& v, Budget& budget);
bool is_iterable(const Value& v);

// `v.name`: Python attributes first, then items. Undefined when there is neither.
Value get_attribute(const Value& v, std::string_view name, Budget& budget);
// `v[key]`: items first, then attributes.
Value get_item(const Value& v, const Value& key, Budget& budget);
Value get_slice(const Value& v, const Value& start, const Value& stop, const Value& step, Budget& budget);

// The bound method `name` of a string, list or mapping; undefined when there is none (methods.cc).
Value find_method(const Value& v, std::string_view name);

Value undefined(std::string message);

// printf-style formatting: `format % arguments` (format.cc).
std::string format_percent(std::string_view format, const Value& arguments, Budget& budget);

// json.dumps (json_text.cc).
struct JsonStyle {
  bool ensure_ascii = false, sort_keys = false;
  const std::string* indent = nullptr;  // what one level is indented by; none: one line
  std::string item_separator = ", ", key_separator = ": ";
};
std::string to_json(const Value& v, const JsonStyle& style, Budget& budget);

// Characters of valid UTF-8, each with its bytes.
std::vector<std::string_view> characters(std::string_view text);

}  // namespace tokamak::llm::jinja
