// What stands behind `is`. Reference: https://jinja.palletsprojects.com/en/stable/templates/#builtin-tests

#include <cmath>

#include "llm/template/interpreter.h"
#include "llm/template/operators.h"
#include "llm/tokenizer/unicode.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::jinja {

namespace {

using In = Interpreter;
using Args = Arguments;

// The one argument of a comparison test.
const Value& operand(const Args& args) {
  if (args.positional.size() != 1 || !args.named.empty()) type_error("the test needs one argument");
  return args.positional[0];
}

bool has_remainder(Interpreter& in, const Value& v, const Value& by) {
  const Value rest = modulo(v, by, in.budget);
  return rest.as_number() != 0.0;
}

bool is_cased(const Value& v, bool upper) {
  if (!v.string()) return false;
  bool cased = false;
  for (size_t at = 0; at < v.string()->size();) {
    const char32_t c = tokenizer::next_code(*v.string(), at);
    if (upper ? tokenizer::is_lower(c) : tokenizer::is_upper(c)) return false;
    cased = cased || tokenizer::is_upper(c) || tokenizer::is_lower(c);
  }
  return cased;
}

bool is_sequence(const Value& v) {
  const List* l = v.as_list();
  return v.string() || v.as_dict() || v.is_undefined() || (l && l->kind != List::Kind::Generator);
}

struct Entry {
  std::string_view name;
  TestFunction test;
};

constexpr Entry kTests[] = {
    {"defined", [](In&, const Value& v, const Args&) { return !v.is_undefined(); }},
    {"undefined", [](In&, const Value& v, const Args&) { return v.is_undefined(); }},
    {"none", [](In&, const Value& v, const Args&) { return v.is_none(); }},
    {"boolean", [](In&, const Value& v, const Args&) { return v.is_bool(); }},
    {"true", [](In&, const Value& v, const Args&) { return v.is_bool() && truth(v); }},
    {"false", [](In&, const Value& v, const Args&) { return v.is_bool() && !truth(v); }},
    {"integer", [](In&, const Value& v, const Args&) { return v.get_if<int64_t>() != nullptr; }},
    {"float", [](In&, const Value& v, const Args&) { return v.get_if<double>() != nullptr; }},
    {"number", [](In&, const Value& v, const Args&) { return v.is_number(); }},
    {"string", [](In&, const Value& v, const Args&) { return v.string() != nullptr; }},
    {"mapping", [](In&, const Value& v, const Args&) { return v.as_dict() != nullptr; }},
    {"sequence", [](In&, const Value& v, const Args&) { return is_sequence(v); }},
    {"iterable", [](In&, const Value& v, const Args&) { return is_iterable(v); }},
    {"callable", [](In&, const Value& v, const Args&) { return v.as_callable() != nullptr; }},
    {"upper", [](In&, const Value& v, const Args&) { return is_cased(v, true); }},
    {"lower", [](In&, const Value& v, const Args&) { return is_cased(v, false); }},
    {"odd", [](In& in, const Value& v, const Args&) { return has_remainder(in, v, 2); }},
    {"even", [](In& in, const Value& v, const Args&) { return !has_remainder(in, v, 2); }},
    {"divisibleby", [](In& in, const Value& v, const Args& a) { return !has_remainder(in, v, operand(a)); }},
    {"sameas", [](In&, const Value& v, const Args& a) { return v.same_object(operand(a)); }},
    {"in", [](In& in, const Value& v, const Args& a) { return contains(operand(a), v, in.budget); }},
    {"filter", [](In&, const Value& v, const Args&) { return v.string() && find_filter(*v.string()); }},
    {"test", [](In&, const Value& v, const Args&) { return v.string() && find_test(*v.string()); }},
    {"escaped", [](In&, const Value&, const Args&) { return false; }},
    {"eq", [](In& in, const Value& v, const Args& a) { return equals(v, operand(a), in.budget); }},
    {"ne", [](In& in, const Value& v, const Args& a) { return !equals(v, operand(a), in.budget); }},
    {"lt", [](In& in, const Value& v, const Args& a) { return less(v, operand(a), in.budget); }},
    {"gt", [](In& in, const Value& v, const Args& a) { return less(operand(a), v, in.budget); }},
    {"le", [](In& in, const Value& v, const Args& a) { return less(v, operand(a), in.budget) || equals(v, operand(a), in.budget); }},
    {"ge", [](In& in, const Value& v, const Args& a) { return less(operand(a), v, in.budget) || equals(v, operand(a), in.budget); }},
};

struct Alias {
  std::string_view name, meaning;
};
constexpr Alias kAliases[] = {{"==", "eq"}, {"equalto", "eq"},     {"!=", "ne"}, {"<", "lt"}, {"lessthan", "lt"},
                              {">", "gt"},  {"greaterthan", "gt"}, {"<=", "le"}, {">=", "ge"}};

}  // namespace

TestFunction find_test(std::string_view name) {
  for (const Alias& alias : kAliases) {
    if (alias.name == name) name = alias.meaning;
  }
  for (const Entry& entry : kTests) {
    if (entry.name == name) return entry.test;
  }
  return nullptr;
}

}  // namespace tokamak::llm::jinja
