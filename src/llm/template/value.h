#pragma once
// What template expressions work on: Python's values, as far as templates see them. Immutable but for namespaces.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace tokamak::llm::jinja {

class Interpreter;
class Value;
class Arguments;

struct Undefined {
  // What using it says ("'x' is undefined").
  std::shared_ptr<const std::string> message;
};

struct None {
  bool operator==(const None&) const = default;
};

// A list, a tuple, or what is left of a generator (which is true even when empty).
struct List {
  enum class Kind { List, Tuple, Generator };
  std::vector<Value> items;
  Kind kind = Kind::List;
  int depth = 1;  // of nesting; limited, so that nothing recurses without bound
};

class Dict;
struct Namespace;

// A function, macro or bound method.
struct Callable {
  std::string name;
  std::function<Value(Interpreter&, Arguments&)> call;
};

// The `loop` of a for statement.
struct Loop {
  std::shared_ptr<const List> items;
  size_t index = 0;
};

using StringPtr = std::shared_ptr<const std::string>;
using ListPtr = std::shared_ptr<const List>;
using DictPtr = std::shared_ptr<const Dict>;

class Value {
 public:
  Value() : data_(Undefined{}) {}
  Value(Undefined u) : data_(std::move(u)) {}
  Value(None) : data_(None{}) {}
  Value(bool b) : data_(b) {}
  Value(int64_t i) : data_(i) {}
  Value(int i) : data_(int64_t{i}) {}
  Value(size_t i) : data_(static_cast<int64_t>(i)) {}
  Value(double d) : data_(d) {}
  Value(std::string s) : data_(std::make_shared<const std::string>(std::move(s))) {}
  Value(std::string_view s) : Value(std::string(s)) {}
  Value(const char* s) : Value(std::string(s)) {}
  Value(StringPtr s) : data_(std::move(s)) {}
  Value(ListPtr l) : data_(std::move(l)) {}
  Value(DictPtr d) : data_(std::move(d)) {}
  Value(std::shared_ptr<Namespace> n) : data_(std::move(n)) {}
  Value(std::shared_ptr<const Callable> c) : data_(std::move(c)) {}
  Value(std::shared_ptr<Loop> l) : data_(std::move(l)) {}

  // Throws InvalidArgument when nested too deeply.
  static Value list(std::vector<Value> items, List::Kind kind = List::Kind::List);
  static Value dict(Dict entries);

  template <class T>
  const T* get_if() const {
    return std::get_if<T>(&data_);
  }
  bool is_undefined() const { return get_if<Undefined>(); }
  bool is_none() const { return get_if<None>(); }
  bool is_bool() const { return get_if<bool>(); }
  const std::string* string() const {
    const auto* s = get_if<StringPtr>();
    return s ? s->get() : nullptr;
  }
  const List* as_list() const {
    const auto* l = get_if<ListPtr>();
    return l ? l->get() : nullptr;
  }
  const Dict* as_dict() const {
    const auto* d = get_if<DictPtr>();
    return d ? d->get() : nullptr;
  }
  Namespace* as_namespace() const {
    const auto* n = get_if<std::shared_ptr<Namespace>>();
    return n ? n->get() : nullptr;
  }
  const Callable* as_callable() const {
    const auto* c = get_if<std::shared_ptr<const Callable>>();
    return c ? c->get() : nullptr;
  }
  Loop* as_loop() const {
    const auto* l = get_if<std::shared_ptr<Loop>>();
    return l ? l->get() : nullptr;
  }
  // Integers and booleans, as Python has it.
  std::optional<int64_t> as_integer() const;
  // Integers, booleans and floats.
  std::optional<double> as_number() const;
  bool is_number() const { return as_number().has_value(); }

  int depth() const;
  bool same_object(const Value& other) const;  // Python's `is`

 private:
  std::variant<Undefined, None, bool, int64_t, double, StringPtr, ListPtr, DictPtr, std::shared_ptr<Namespace>,
               std::shared_ptr<const Callable>, std::shared_ptr<Loop>>
      data_;
};

// Keys in order of insertion: None, booleans, numbers and strings.
class Dict {
 public:
  // Replaces the value of an equal key. Throws InvalidArgument for other kinds of keys, and when nested too deeply.
  void set(Value key, Value value);
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  int depth() const { return depth_; }

 private:
  std::vector<std::pair<Value, Value>> entries_;
  std::unordered_map<std::string, size_t> places_;  // of string keys
  int depth_ = 1;
};

struct Namespace {
  Dict attributes;
};

// What a call passes. Functions take parameters by place or by name.
class Arguments {
 public:
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The values of `parameters` in order; nothing where the call gave none. Throws InvalidArgument on too many or unknown ones.
  std::vector<std::optional<Value>> bind(std::string_view function, const std::vector<std::string_view>& parameters) const;
};

// Python's name of the type, for messages.
std::string_view type_name(const Value& v);

// An error without a place: the interpreter adds the line.
class Fault : public Error {
 public:
  using Error::Error;
};
[[noreturn]] void type_error(std::string message);
// Throws when `v` is undefined, with its message.
void require_defined(const Value& v);

}  // namespace tokamak::llm::jinja
