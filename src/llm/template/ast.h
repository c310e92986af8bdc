#pragma once
// The tree of a template. Nodes evaluate themselves (interpreter.cc); the parser bounds the depth.

#include <algorithm>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "llm/template/value.h"

namespace tokamak::llm::jinja {

class Scope;

// Height of an expression's tree. Chains such as a + b + c nest without nesting in the text, so nodes count it: trees are evaluated and
// freed by recursion. Throws InvalidArgument.
int checked_height(int at_line, int child_height);

struct Expression {
  Expression(int at_line, int child_height) : line(at_line), height(checked_height(at_line, child_height)) {}
  virtual ~Expression() = default;
  // Only Interpreter::evaluate() calls this: it counts work and depth, and adds the line to errors.
  virtual Value evaluate(Interpreter& in, Scope& scope) const = 0;
  int line, height;
};
using ExpressionPtr = std::unique_ptr<const Expression>;

enum class Flow { Next, Break, Continue };

struct Statement {
  explicit Statement(int at_line) : line(at_line) {}
  virtual ~Statement() = default;
  virtual Flow run(Interpreter& in, Scope& scope) const = 0;  // only Interpreter::run() calls this
  int line;
};
using Block = std::vector<std::unique_ptr<const Statement>>;

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr unpacked_list, unpacked_dict;  // *list, **dict
};

inline int height_of() { return 0; }
inline int height_of(const ExpressionPtr& e) { return e ? e->height : 0; }
inline int height_of(const std::vector<ExpressionPtr>& list) {
  int height = 0;
  for (const auto& e : list) height = std::max(height, height_of(e));
  return height;
}
template <class Key>
int height_of(const std::vector<std::pair<Key, ExpressionPtr>>& list) {
  int height = 0;
  for (const auto& [key, e] : list) {
    height = std::max(height, height_of(e));
    if constexpr (std::is_same_v<Key, ExpressionPtr>) height = std::max(height, height_of(key));
  }
  return height;
}
inline int height_of(const CallArguments& a) {
  return std::max({height_of(a.positional), height_of(a.named), height_of(a.unpacked_list), height_of(a.unpacked_dict)});
}
template <class First, class... Rest>
requires(sizeof...(Rest) > 0) int height_of(const First& first, const Rest&... rest) {
  return std::max(height_of(first), height_of(rest...));
}

// What is assigned to: names (unpacked when more than one, or nested), or one attribute of a namespace.
struct Target {
  std::string name;       // a single name, or the namespace
  std::string attribute;  // of the namespace
  std::vector<Target> parts;
  int line = 0;
};

struct Constant final : Expression {
  Constant(int at_line, Value v) : Expression(at_line, 0), value(std::move(v)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  Value value;
};

struct Name final : Expression {
  Name(int at_line, std::string n) : Expression(at_line, 0), name(std::move(n)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  std::string name;
};

struct ListLiteral final : Expression {
  ListLiteral(int at_line, std::vector<ExpressionPtr> i, List::Kind k) : Expression(at_line, height_of(i)), items(std::move(i)), kind(k) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  std::vector<ExpressionPtr> items;
  List::Kind kind;
};

struct DictLiteral final : Expression {
  DictLiteral(int at_line, std::vector<std::pair<ExpressionPtr, ExpressionPtr>> e)
      : Expression(at_line, height_of(e)), entries(std::move(e)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
};

struct Attribute final : Expression {
  Attribute(int at_line, ExpressionPtr o, std::string n) : Expression(at_line, height_of(o)), object(std::move(o)), name(std::move(n)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  ExpressionPtr object;
  std::string name;
};

struct Item final : Expression {
  Item(int at_line, ExpressionPtr o, ExpressionPtr k) : Expression(at_line, height_of(o, k)), object(std::move(o)), key(std::move(k)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  ExpressionPtr object, key;
};

struct Slice final : Expression {
  Slice(int at_line, ExpressionPtr o, ExpressionPtr b, ExpressionPtr e, ExpressionPtr s)
      : Expression(at_line, height_of(o, b, e, s)), object(std::move(o)), start(std::move(b)), stop(std::move(e)), step(std::move(s)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  ExpressionPtr object, start, stop, step;  // bounds may be null
};

struct Call final : Expression {
  Call(int at_line, ExpressionPtr f, CallArguments a)
      : Expression(at_line, height_of(f, a)), function(std::move(f)), arguments(std::move(a)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  ExpressionPtr function;
  CallArguments arguments;
};

// input|name(arguments); input is null for the first filter of a block.
struct Filter final : Expression {
  Filter(int at_line, ExpressionPtr i, std::string n, CallArguments a)
      : Expression(at_line, height_of(i, a)), input(std::move(i)), name(std::move(n)), arguments(std::move(a)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  Value apply(Interpreter& in, Scope& scope, const Value& value) const;
  ExpressionPtr input;
  std::string name;
  CallArguments arguments;
};

struct Test final : Expression {
  Test(int at_line, ExpressionPtr i, std::string n, CallArguments a, bool neg)
      : Expression(at_line, height_of(i, a)), input(std::move(i)), name(std::move(n)), arguments(std::move(a)), negated(neg) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  ExpressionPtr input;
  std::string name;
  CallArguments arguments;
  bool negated;
};

struct Unary final : Expression {
  enum class Op { Not, Negative, Positive };
  Unary(int at_line, Op o, ExpressionPtr e) : Expression(at_line, height_of(e)), op(o), operand(std::move(e)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  Op op;
  ExpressionPtr operand;
};

struct Binary final : Expression {
  enum class Op { Add, Subtract, Multiply, Divide, FloorDivide, Modulo, Power, And, Or };
  Binary(int at_line, Op o, ExpressionPtr l, ExpressionPtr r)
      : Expression(at_line, height_of(l, r)), op(o), left(std::move(l)), right(std::move(r)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  Op op;
  ExpressionPtr left, right;
};

// first op1 a op2 b ...: each neighbour pair holds
struct Comparison final : Expression {
  enum class Op { Equal, NotEqual, Less, LessEqual, Greater, GreaterEqual, In, NotIn };
  Comparison(int at_line, ExpressionPtr f, std::vector<std::pair<Op, ExpressionPtr>> r)
      : Expression(at_line, height_of(f, r)), first(std::move(f)), rest(std::move(r)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  ExpressionPtr first;
  std::vector<std::pair<Op, ExpressionPtr>> rest;
};

struct Concatenation final : Expression {
  Concatenation(int at_line, std::vector<ExpressionPtr> p) : Expression(at_line, height_of(p)), parts(std::move(p)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  std::vector<ExpressionPtr> parts;
};

struct Conditional final : Expression {
  Conditional(int at_line, ExpressionPtr c, ExpressionPtr y, ExpressionPtr n)
      : Expression(at_line, height_of(c, y, n)), condition(std::move(c)), yes(std::move(y)), no(std::move(n)) {}
  Value evaluate(Interpreter& in, Scope& scope) const override;
  ExpressionPtr condition, yes, no;  // no may be null: undefined
};

struct Text final : Statement {
  Text(int at_line, std::string t) : Statement(at_line), text(std::move(t)) {}
  Flow run(Interpreter& in, Scope& scope) const override;
  std::string text;
};

struct Print final : Statement {
  Print(int at_line, ExpressionPtr e) : Statement(at_line), expression(std::move(e)) {}
  Flow run(Interpreter& in, Scope& scope) const override;
  ExpressionPtr expression;
};

struct If final : Statement {
  using Statement::Statement;
  Flow run(Interpreter& in, Scope& scope) const override;
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  Block otherwise;
};

struct For final : Statement {
  using Statement::Statement;
  Flow run(Interpreter& in, Scope& scope) const override;
  Target target;
  ExpressionPtr iterable, filter;  // filter may be null
  Block body, otherwise;
};

struct Set final : Statement {
  using Statement::Statement;
  Flow run(Interpreter& in, Scope& scope) const override;
  Target target;
  ExpressionPtr value;  // null: the block's output, through the filters
  std::vector<std::unique_ptr<const Filter>> filters;
  Block body;
};

// A macro's parameters and body; also the body of a call block.
struct MacroBody {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // default values may be null
  Block body;
  int line = 0;
  bool takes_varargs = false, takes_kwargs = false;  // whether the body names them
};

struct Macro final : Statement {
  using Statement::Statement;
  Flow run(Interpreter& in, Scope& scope) const override;
  MacroBody macro;
};

// {% call(parameters) macro(arguments) %}body{% endcall %}
struct CallBlock final : Statement {
  using Statement::Statement;
  Flow run(Interpreter& in, Scope& scope) const override;
  MacroBody caller;
  std::unique_ptr<const Call> call;
};

struct FilterBlock final : Statement {
  using Statement::Statement;
  Flow run(Interpreter& in, Scope& scope) const override;
  std::vector<std::unique_ptr<const Filter>> filters;
  Block body;
};

// A scope of its own: {% with a = 1 %}, and {% generation %} (which marks what the assistant wrote).
struct With final : Statement {
  using Statement::Statement;
  Flow run(Interpreter& in, Scope& scope) const override;
  std::vector<std::pair<Target, ExpressionPtr>> assignments;
  Block body;
};

struct Jump final : Statement {
  Jump(int at_line, Flow f) : Statement(at_line), flow(f) {}
  Flow run(Interpreter&, Scope&) const override { return flow; }
  Flow flow;
};

struct Template {
  Block body;
};

}  // namespace tokamak::llm::jinja
