// The functions that `transformers` and Jinja's sandbox give to every template.

#include <ctime>

#include "llm/template/interpreter.h"
#include "llm/template/operators.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::jinja {

namespace {

Value range(Interpreter& in, Arguments& args) {
  constexpr int64_t kMaxRange = 100'000;  // Jinja's sandbox
  const auto bound = args.bind("range", {"start", "stop", "step"});
  int64_t values[3] = {0, 0, 1};
  for (size_t i = 0; i < 3; ++i) {
    if (!bound[i]) continue;
    require_defined(*bound[i]);
    const auto n = bound[i]->as_integer();
    if (!n) type_error(fmt::format("'{}' object cannot be interpreted as an integer", type_name(*bound[i])));
    values[i] = *n;
  }
  if (!bound[0]) type_error("range() needs an argument");
  if (!bound[1]) std::swap(values[0], values[1]);
  const auto [start, stop, step] = values;
  if (step == 0) type_error("range() arg 3 must not be zero");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) == kMaxRange) type_error("range too big: the limit is 100000 items");
    items.emplace_back(i);
    in.budget.spend(1);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return Value::list(std::move(items));
}

// dict(mapping or pairs, **more)
Dict make_dict(Interpreter& in, std::string_view function, const Arguments& args) {
  Dict dict;
  if (args.positional.size() > 1) type_error(fmt::format("{}() takes one mapping", function));
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (const Dict* other = from.as_dict()) {
      in.budget.spend(other->entries().size());
      for (const auto& [key, value] : other->entries()) dict.set(key, value);
    } else {
      for (const Value& pair : iterate(from, in.budget)) {
        const ListPtr items = iterate_list(pair, in.budget);
        if (items->items.size() != 2) type_error(fmt::format("{}() needs pairs", function));
        dict.set(items->items[0], items->items[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) dict.set(name, value);
  return dict;
}

Value raise_exception(Interpreter& in, Arguments& args) {
  const auto bound = args.bind("raise_exception", {"message"});
  fail(ErrorCode::InvalidArgument, "{}", bound[0] ? to_text(*bound[0], in.budget) : "the chat template raised an exception");
}

Value strftime_now(Interpreter& in, Arguments& args) {
  const auto bound = args.bind("strftime_now", {"format"});
  const std::string* format = bound[0] ? bound[0]->string() : nullptr;
  constexpr size_t kMaxFormat = 200;
  if (!format || format->size() > kMaxFormat) type_error("strftime_now() needs a format of at most 200 bytes");
  const std::time_t now = in.now_unix >= 0 ? static_cast<std::time_t>(in.now_unix) : std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  // A leading character tells an empty result from a full buffer.
  const std::string safe = "x" + *format;
  char buffer[4096];
  const size_t n = std::strftime(buffer, sizeof buffer, safe.c_str(), &local);
  if (n == 0) type_error("strftime_now() makes too long a text");
  return tokenizer::to_valid_utf8(std::string_view(buffer + 1, n - 1));
}

Value callable(std::string_view name, Value (*function)(Interpreter&, Arguments&)) {
  auto made = std::make_shared<Callable>();
  made->name = name;
  made->call = function;
  return Value(std::shared_ptr<const Callable>(std::move(made)));
}

}  // namespace

Value find_global(std::string_view name) {
  if (name == "range") return callable(name, range);
  if (name == "raise_exception") return callable(name, raise_exception);
  if (name == "strftime_now") return callable(name, strftime_now);
  if (name == "dict") {
    return callable(name, [](Interpreter& in, Arguments& args) { return Value::dict(make_dict(in, "dict", args)); });
  }
  if (name == "namespace") {
    return callable(name, [](Interpreter& in, Arguments& args) {
      Dict attributes = make_dict(in, "namespace", args);
      for (const auto& [key, value] : attributes.entries()) {
        if (key.string() && key.string()->starts_with('_'))
          type_error(fmt::format("a namespace cannot hold '{}': it begins with an underscore", *key.string()));
      }
      return in.make_namespace(std::move(attributes));
    });
  }
  return Undefined{};
}

}  // namespace tokamak::llm::jinja
