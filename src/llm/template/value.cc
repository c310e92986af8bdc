#include "llm/template/value.h"

#include <algorithm>

namespace tokamak::llm::jinja {

namespace {

constexpr int kMaxDepth = 200;

// Equality of keys that are not strings.
bool same_scalar(const Value& a, const Value& b) {
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  return a.is_number() && a.as_number() == b.as_number();
}

int nested(int depth) {
  if (depth >= kMaxDepth) type_error("lists and mappings are nested too deeply");
  return depth + 1;
}

}  // namespace

void Dict::set(Value key, Value value) {
  depth_ = std::max(depth_, nested(std::max(key.depth(), value.depth())));
  if (const std::string* name = key.string()) {
    const auto [place, is_new] = places_.emplace(*name, entries_.size());
    if (!is_new) {
      entries_[place->second].second = std::move(value);
      return;
    }
  } else {
    if (!key.is_none() && !key.is_number()) type_error(fmt::format("unhashable type: '{}'", type_name(key)));
    for (auto& [k, v] : entries_) {
      if (same_scalar(k, key)) {
        v = std::move(value);
        return;
      }
    }
  }
  entries_.emplace_back(std::move(key), std::move(value));
}

const Value* Dict::find(std::string_view key) const {
  const auto it = places_.find(std::string(key));
  return it == places_.end() ? nullptr : &entries_[it->second].second;
}

const Value* Dict::find(const Value& key) const {
  if (const std::string* name = key.string()) return find(std::string_view(*name));
  if (places_.size() == entries_.size()) return nullptr;
  for (const auto& [k, v] : entries_) {
    if (same_scalar(k, key)) return &v;
  }
  return nullptr;
}

Value Value::list(std::vector<Value> items, List::Kind kind) {
  auto list = std::make_shared<List>();
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  list->depth = nested(depth);
  list->items = std::move(items);
  list->kind = kind;
  return Value(ListPtr(std::move(list)));
}

Value Value::dict(Dict entries) { return Value(DictPtr(std::make_shared<const Dict>(std::move(entries)))); }

std::optional<int64_t> Value::as_integer() const {
  if (const auto* i = get_if<int64_t>()) return *i;
  if (const auto* b = get_if<bool>()) return *b ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::as_number() const {
  if (const auto* d = get_if<double>()) return *d;
  if (const auto i = as_integer()) return static_cast<double>(*i);
  return std::nullopt;
}

int Value::depth() const {
  if (const List* l = as_list()) return l->depth;
  if (const Dict* d = as_dict()) return d->depth();
  return 0;
}

bool Value::same_object(const Value& other) const {
  if (data_.index() != other.data_.index()) return false;
  return std::visit(
      [&](const auto& a) {
        using T = std::decay_t<decltype(a)>;
        const T& b = *other.get_if<T>();
        if constexpr (std::is_same_v<T, Undefined>) {
          return true;
        } else if constexpr (std::is_same_v<T, StringPtr>) {
          return *a == *b;  // CPython shares short strings; contents are what a template can mean
        } else {
          return a == b;
        }
      },
      data_);
}

std::vector<std::optional<Value>> Arguments::bind(std::string_view function, const std::vector<std::string_view>& parameters) const {
  if (positional.size() > parameters.size()) {
    type_error(fmt::format("{}() takes at most {} arguments, {} given", function, parameters.size(), positional.size()));
  }
  std::vector<std::optional<Value>> bound(parameters.size());
  std::copy(positional.begin(), positional.end(), bound.begin());
  for (const auto& [name, value] : named) {
    const auto it = std::find(parameters.begin(), parameters.end(), name);
    if (it == parameters.end()) type_error(fmt::format("{}() has no parameter '{}'", function, name));
    auto& slot = bound[static_cast<size_t>(it - parameters.begin())];
    if (slot) type_error(fmt::format("{}() got two values for '{}'", function, name));
    slot = value;
  }
  return bound;
}

std::string_view type_name(const Value& v) {
  if (v.is_undefined()) return "Undefined";
  if (v.is_none()) return "NoneType";
  if (v.is_bool()) return "bool";
  if (v.get_if<int64_t>()) return "int";
  if (v.get_if<double>()) return "float";
  if (v.string()) return "str";
  if (const List* l = v.as_list()) return l->kind == List::Kind::List ? "list" : l->kind == List::Kind::Tuple ? "tuple" : "generator";
  if (v.as_dict()) return "dict";
  if (v.as_namespace()) return "Namespace";
  if (v.as_loop()) return "LoopContext";
  return "function";
}

void type_error(std::string message) { throw Fault(ErrorCode::InvalidArgument, std::move(message)); }

void require_defined(const Value& v) {
  if (const auto* u = v.get_if<Undefined>()) type_error(u->message ? *u->message : "a value is undefined");
}

}  // namespace tokamak::llm::jinja
