#include "llm/template/interpreter.h"

#include <algorithm>

#include "llm/template/lexer.h"
#include "llm/template/operators.h"

namespace tokamak::llm::jinja {

namespace {

constexpr size_t kSpendToKeep = 50;  // for what stays until the end of the render

}  // namespace

void Scope::set(std::string_view name, Value value) {
  for (auto& [known, old] : variables_) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  variables_.emplace_back(name, std::move(value));
}

const Value* Scope::find(std::string_view name) const {
  for (const Scope* scope = this; scope; scope = scope->parent_.get()) {
    for (const auto& [known, value] : scope->variables_) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

Interpreter::Interpreter(const Dict& context, Budget b, int max_depth, int64_t now)
    : budget(b), now_unix(now), context_(context), max_depth_(max_depth) {}

Interpreter::~Interpreter() {
  for (const auto& scope : captured_scopes_) scope->clear();
  for (const auto& ns : namespaces_) ns->attributes = {};
}

template <class F>
auto Interpreter::guarded(int line, const F& f) {
  struct Depth {
    int& depth;
    ~Depth() { --depth; }
  } const guard{++depth_};
  try {
    if (depth_ > max_depth_) type_error("calls and blocks are nested too deeply");
    budget.spend(1);
    return f();
  } catch (const Fault& fault) {
    throw Error(fault.code(), fmt::format("chat template, line {}: {}", line, fault.what()));
  }
}

std::string Interpreter::render(const Template& parsed) {
  std::string out;
  out_ = &out;
  const auto scope = std::make_shared<Scope>(nullptr);
  run(parsed.body, *scope);
  return out;
}

Value Interpreter::evaluate(const Expression& e, Scope& scope) {
  return guarded(e.line, [&] { return e.evaluate(*this, scope); });
}

Flow Interpreter::run(const Block& block, Scope& scope) {
  for (const auto& statement : block) {
    const Flow flow = guarded(statement->line, [&] { return statement->run(*this, scope); });
    if (flow != Flow::Next) return flow;
  }
  return Flow::Next;
}

Value Interpreter::look_up(std::string_view name, const Scope& scope) const {
  if (const Value* v = scope.find(name)) return *v;
  if (const Value* v = context_.find(name)) return *v;
  Value global = find_global(name);
  return global.is_undefined() ? undefined(fmt::format("'{}' is undefined", name)) : global;
}

Arguments Interpreter::evaluate(const CallArguments& args, Scope& scope) {
  Arguments made;
  for (const auto& e : args.positional) made.positional.push_back(evaluate(*e, scope));
  if (args.unpacked_list) {
    for (Value& v : iterate(evaluate(*args.unpacked_list, scope), budget)) made.positional.push_back(std::move(v));
  }
  for (const auto& [name, e] : args.named) made.named.emplace_back(name, evaluate(*e, scope));
  if (args.unpacked_dict) {
    const Value dict = evaluate(*args.unpacked_dict, scope);
    if (!dict.as_dict()) type_error(fmt::format("'**' needs a mapping, not '{}'", type_name(dict)));
    for (const auto& [key, value] : dict.as_dict()->entries()) {
      if (!key.string()) type_error("keywords must be strings");
      budget.spend(1);
      made.named.emplace_back(*key.string(), value);
    }
  }
  return made;
}

Value Interpreter::call(const Value& function, Arguments& args) {
  require_defined(function);
  const Callable* callable = function.as_callable();
  if (!callable) type_error(fmt::format("'{}' object is not callable", type_name(function)));
  return callable->call(*this, args);
}

void Interpreter::assign(const Target& target, const Value& value, Scope& scope) {
  if (!target.parts.empty()) {
    const ListPtr items = iterate_list(value, budget);
    if (items->items.size() != target.parts.size()) {
      type_error(fmt::format("expected {} values to unpack, found {}", target.parts.size(), items->items.size()));
    }
    for (size_t i = 0; i < target.parts.size(); ++i) assign(target.parts[i], items->items[i], scope);
  } else if (target.attribute.empty()) {
    scope.set(target.name, value);
  } else {
    const Value object = look_up(target.name, scope);
    Namespace* ns = object.as_namespace();
    if (!ns) type_error("cannot assign attribute on non-namespace object");
    if (target.attribute.starts_with('_'))
      type_error(fmt::format("a namespace cannot hold '{}': it begins with an underscore", target.attribute));
    ns->attributes.set(target.attribute, value);
  }
}

std::string Interpreter::capture(const Block& block, Scope& scope) {
  std::string captured;
  std::string* const before = std::exchange(out_, &captured);
  try {
    run(block, scope);
  } catch (...) {
    out_ = before;
    throw;
  }
  out_ = before;
  return captured;
}

Value Interpreter::make_namespace(Dict attributes) {
  budget.spend(kSpendToKeep);
  auto made = std::make_shared<Namespace>(Namespace{std::move(attributes)});
  namespaces_.push_back(made);
  return Value(std::move(made));
}

Value Interpreter::make_macro(const MacroBody& macro, Scope& scope, bool is_caller) {
  const std::shared_ptr<Scope> outer = scope.shared_from_this();
  budget.spend(kSpendToKeep);
  captured_scopes_.push_back(outer);
  auto made = std::make_shared<Callable>();
  made->name = macro.name;
  made->call = [&macro, outer, is_caller](Interpreter& in, Arguments& args) -> Value {
    const auto inner = std::make_shared<Scope>(outer);
    const size_t count = macro.parameters.size();
    std::vector<std::optional<Value>> values(count);
    std::copy_n(args.positional.begin(), std::min(count, args.positional.size()), values.begin());
    std::vector<Value> more(args.positional.begin() + static_cast<ptrdiff_t>(std::min(count, args.positional.size())),
                            args.positional.end());
    if (!more.empty() && !macro.takes_varargs) type_error(fmt::format("macro '{}' takes not more than {} arguments", macro.name, count));
    Dict named;
    for (const auto& [name, value] : args.named) {
      if (name == "caller" && !is_caller) {
        inner->set(name, value);
        continue;
      }
      const auto it =
          std::find_if(macro.parameters.begin(), macro.parameters.end(), [&, &known = name](const auto& p) { return p.first == known; });
      if (it == macro.parameters.end()) {
        if (!macro.takes_kwargs) type_error(fmt::format("macro '{}' takes no keyword argument '{}'", macro.name, name));
        named.set(name, value);
      } else {
        auto& slot = values[static_cast<size_t>(it - macro.parameters.begin())];
        if (slot) type_error(fmt::format("macro '{}' got two values for '{}'", macro.name, name));
        slot = value;
      }
    }
    inner->set("varargs", Value::list(std::move(more), List::Kind::Tuple));
    inner->set("kwargs", Value::dict(std::move(named)));
    for (size_t i = 0; i < count; ++i) {
      const auto& [name, fallback] = macro.parameters[i];
      if (values[i]) {
        inner->set(name, *values[i]);
      } else if (fallback) {
        inner->set(name, in.evaluate(*fallback, *inner));
      } else {
        inner->set(name, undefined(fmt::format("parameter '{}' was not provided", name)));
      }
    }
    return in.capture(macro.body, *inner);
  };
  return Value(std::shared_ptr<const Callable>(std::move(made)));
}

Value apply_filter(Interpreter& in, std::string_view name, const Value& input, const Arguments& args) {
  const FilterFunction filter = find_filter(name);
  if (!filter) type_error(fmt::format("no filter named '{}'", name));
  return filter(in, input, args);
}

bool apply_test(Interpreter& in, std::string_view name, const Value& input, const Arguments& args) {
  const TestFunction test = find_test(name);
  if (!test) type_error(fmt::format("no test named '{}'", name));
  return test(in, input, args);
}

// Expressions

Value Constant::evaluate(Interpreter&, Scope&) const { return value; }

Value Name::evaluate(Interpreter& in, Scope& scope) const { return in.look_up(name, scope); }

Value ListLiteral::evaluate(Interpreter& in, Scope& scope) const {
  std::vector<Value> values;
  values.reserve(items.size());
  for (const auto& item : items) values.push_back(in.evaluate(*item, scope));
  return Value::list(std::move(values), kind);
}

Value DictLiteral::evaluate(Interpreter& in, Scope& scope) const {
  Dict dict;
  for (const auto& [key, value] : entries) {
    Value k = in.evaluate(*key, scope);
    dict.set(std::move(k), in.evaluate(*value, scope));
  }
  return Value::dict(std::move(dict));
}

Value Attribute::evaluate(Interpreter& in, Scope& scope) const { return get_attribute(in.evaluate(*object, scope), name, in.budget); }

Value Item::evaluate(Interpreter& in, Scope& scope) const {
  const Value o = in.evaluate(*object, scope);
  return get_item(o, in.evaluate(*key, scope), in.budget);
}

Value Slice::evaluate(Interpreter& in, Scope& scope) const {
  const Value o = in.evaluate(*object, scope);
  const auto bound = [&](const ExpressionPtr& e) { return e ? in.evaluate(*e, scope) : Value(None()); };
  const Value b = bound(start), e = bound(stop);
  return get_slice(o, b, e, bound(step), in.budget);
}

Value Call::evaluate(Interpreter& in, Scope& scope) const {
  const Value f = in.evaluate(*function, scope);
  Arguments args = in.evaluate(arguments, scope);
  return in.call(f, args);
}

Value Filter::evaluate(Interpreter& in, Scope& scope) const { return apply(in, scope, in.evaluate(*input, scope)); }

Value Filter::apply(Interpreter& in, Scope& scope, const Value& value) const {
  return apply_filter(in, name, value, in.evaluate(arguments, scope));
}

Value Test::evaluate(Interpreter& in, Scope& scope) const {
  const Value value = in.evaluate(*input, scope);
  return apply_test(in, name, value, in.evaluate(arguments, scope)) != negated;
}

Value Unary::evaluate(Interpreter& in, Scope& scope) const {
  Value v = in.evaluate(*operand, scope);
  if (op == Op::Not) return !truth(v);
  if (op == Op::Negative) return negate(v);
  if (!v.is_number()) {
    require_defined(v);
    type_error(fmt::format("bad operand type for unary +: '{}'", type_name(v)));
  }
  return v;
}

Value Binary::evaluate(Interpreter& in, Scope& scope) const {
  const Value a = in.evaluate(*left, scope);
  if (op == Op::And) return truth(a) ? in.evaluate(*right, scope) : a;
  if (op == Op::Or) return truth(a) ? a : in.evaluate(*right, scope);
  const Value b = in.evaluate(*right, scope);
  switch (op) {
    case Op::Add: return add(a, b, in.budget);
    case Op::Subtract: return subtract(a, b);
    case Op::Multiply: return multiply(a, b, in.budget);
    case Op::Divide: return divide(a, b);
    case Op::FloorDivide: return floor_divide(a, b);
    case Op::Modulo: return modulo(a, b, in.budget);
    default: return power(a, b);
  }
}

Value Comparison::evaluate(Interpreter& in, Scope& scope) const {
  Value left = in.evaluate(*first, scope);
  for (const auto& [op, e] : rest) {
    Value right = in.evaluate(*e, scope);
    Budget& budget = in.budget;
    bool holds = false;
    switch (op) {
      case Op::Equal: holds = equals(left, right, budget); break;
      case Op::NotEqual: holds = !equals(left, right, budget); break;
      case Op::Less: holds = less(left, right, budget); break;
      case Op::LessEqual: holds = less(left, right, budget) || equals(left, right, budget); break;
      case Op::Greater: holds = less(right, left, budget); break;
      case Op::GreaterEqual: holds = less(right, left, budget) || equals(left, right, budget); break;
      case Op::In: holds = contains(right, left, budget); break;
      case Op::NotIn: holds = !contains(right, left, budget); break;
    }
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value Concatenation::evaluate(Interpreter& in, Scope& scope) const {
  std::string out;
  for (const auto& part : parts) in.budget.append(out, to_text(in.evaluate(*part, scope), in.budget));
  return out;
}

Value Conditional::evaluate(Interpreter& in, Scope& scope) const {
  if (truth(in.evaluate(*condition, scope))) return in.evaluate(*yes, scope);
  if (no) return in.evaluate(*no, scope);
  return undefined("the inline if-expression evaluated to false and no else section was defined");
}

// Statements

Flow Text::run(Interpreter& in, Scope&) const {
  in.write(text);
  return Flow::Next;
}

Flow Print::run(Interpreter& in, Scope& scope) const {
  in.write(to_text(in.evaluate(*expression, scope), in.budget));
  return Flow::Next;
}

Flow If::run(Interpreter& in, Scope& scope) const {
  for (const auto& [condition, body] : branches) {
    if (truth(in.evaluate(*condition, scope))) return in.run(body, scope);
  }
  return in.run(otherwise, scope);
}

Flow For::run(Interpreter& in, Scope& scope) const {
  ListPtr items = iterate_list(in.evaluate(*iterable, scope), in.budget);
  if (filter) {
    std::vector<Value> kept;
    for (const Value& item : items->items) {
      const auto inner = std::make_shared<Scope>(scope.shared_from_this());
      in.assign(target, item, *inner);
      if (truth(in.evaluate(*filter, *inner))) kept.push_back(item);
    }
    items = *Value::list(std::move(kept)).get_if<ListPtr>();
  }
  if (items->items.empty()) return in.run(otherwise, scope);
  for (size_t i = 0; i < items->items.size(); ++i) {
    const auto inner = std::make_shared<Scope>(scope.shared_from_this());
    inner->set("loop", Value(std::make_shared<Loop>(Loop{items, i})));
    in.assign(target, items->items[i], *inner);
    in.budget.spend(1);
    if (in.run(body, *inner) == Flow::Break) break;
  }
  return Flow::Next;
}

namespace {

Value apply_filters(Interpreter& in, Scope& scope, const std::vector<std::unique_ptr<const Filter>>& filters, Value value) {
  for (const auto& filter : filters) value = filter->apply(in, scope, value);
  return value;
}

}  // namespace

Flow Set::run(Interpreter& in, Scope& scope) const {
  if (value) {
    in.assign(target, in.evaluate(*value, scope), scope);
  } else {
    const auto inner = std::make_shared<Scope>(scope.shared_from_this());
    in.assign(target, apply_filters(in, scope, filters, in.capture(body, *inner)), scope);
  }
  return Flow::Next;
}

Flow Macro::run(Interpreter& in, Scope& scope) const {
  scope.set(macro.name, in.make_macro(macro, scope));
  return Flow::Next;
}

Flow CallBlock::run(Interpreter& in, Scope& scope) const {
  const Value function = in.evaluate(*call->function, scope);
  Arguments args = in.evaluate(call->arguments, scope);
  args.named.emplace_back("caller", in.make_macro(caller, scope, true));
  in.write(to_text(in.call(function, args), in.budget));
  return Flow::Next;
}

Flow FilterBlock::run(Interpreter& in, Scope& scope) const {
  const auto inner = std::make_shared<Scope>(scope.shared_from_this());
  in.write(to_text(apply_filters(in, scope, filters, in.capture(body, *inner)), in.budget));
  return Flow::Next;
}

Flow With::run(Interpreter& in, Scope& scope) const {
  const auto inner = std::make_shared<Scope>(scope.shared_from_this());
  for (const auto& [name, e] : assignments) in.assign(name, in.evaluate(*e, scope), *inner);
  return in.run(body, *inner);
}

}  // namespace tokamak::llm::jinja
