#pragma once
// One render of one template.

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llm/template/ast.h"
#include "llm/template/budget.h"

namespace tokamak::llm::jinja {

// Variables; what a scope lacks, its parents may have. Loops and macros have their own, `if` has not.
class Scope : public std::enable_shared_from_this<Scope> {
 public:
  explicit Scope(std::shared_ptr<Scope> parent) : parent_(std::move(parent)) {}
  void set(std::string_view name, Value value);
  const Value* find(std::string_view name) const;
  void clear() { variables_.clear(); }

 private:
  std::vector<std::pair<std::string, Value>> variables_;
  std::shared_ptr<Scope> parent_;
};

class Interpreter {
 public:
  Interpreter(const Dict& context, Budget budget, int max_depth, int64_t now_unix);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  std::string render(const Template& parsed);

  // These count work and depth, and add the line to errors that have none.
  Value evaluate(const Expression& e, Scope& scope);
  Flow run(const Block& block, Scope& scope);

  Value look_up(std::string_view name, const Scope& scope) const;
  Arguments evaluate(const CallArguments& args, Scope& scope);
  Value call(const Value& function, Arguments& args);
  void assign(const Target& target, const Value& value, Scope& scope);
  void write(std::string_view text) { budget.append(*out_, text); }
  // What `block` writes.
  std::string capture(const Block& block, Scope& scope);
  Value make_macro(const MacroBody& macro, Scope& scope, bool is_caller = false);
  Value make_namespace(Dict attributes);

  Budget budget;
  int64_t now_unix;  // -1: the clock

 private:
  template <class F>
  auto guarded(int line, const F& f);

  const Dict& context_;
  int depth_ = 0, max_depth_;
  std::string* out_ = nullptr;
  // Things that may refer to themselves; emptied at the end, so that reference counts reach zero.
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::vector<std::shared_ptr<Scope>> captured_scopes_;
};

// The functions every template has: range, dict, namespace, raise_exception, strftime_now. Undefined when unknown (globals.cc).
Value find_global(std::string_view name);

using FilterFunction = Value (*)(Interpreter& in, const Value& input, const Arguments& args);
// nullptr when unknown (filters.cc).
FilterFunction find_filter(std::string_view name);

using TestFunction = bool (*)(Interpreter& in, const Value& input, const Arguments& args);
// nullptr when unknown (tests.cc).
TestFunction find_test(std::string_view name);

Value apply_filter(Interpreter& in, std::string_view name, const Value& input, const Arguments& args);
bool apply_test(Interpreter& in, std::string_view name, const Value& input, const Arguments& args);

}  // namespace tokamak::llm::jinja
