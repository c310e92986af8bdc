#include "llm/grammar/schema_compiler.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "llm/grammar/machine.h"

namespace tokamak::llm::grammar {

namespace {

struct Keyword {
  std::string_view name, type;  // the type of value it is about; "" for all
};

constexpr std::array kKeywords = {
    Keyword{"type", ""},
    Keyword{"enum", ""},
    Keyword{"properties", "object"},
    Keyword{"required", "object"},
    Keyword{"additionalProperties", "object"},
    Keyword{"patternProperties", "object"},
    Keyword{"propertyNames", "object"},
    Keyword{"minProperties", "object"},
    Keyword{"maxProperties", "object"},
    Keyword{"items", "array"},
    Keyword{"prefixItems", "array"},
    Keyword{"minItems", "array"},
    Keyword{"maxItems", "array"},
    Keyword{"uniqueItems", "array"},
    Keyword{"minLength", "string"},
    Keyword{"maxLength", "string"},
    Keyword{"pattern", "string"},
    Keyword{"format", "string"},
    Keyword{"minimum", "number"},
    Keyword{"maximum", "number"},
    Keyword{"exclusiveMinimum", "number"},
    Keyword{"exclusiveMaximum", "number"},
    Keyword{"multipleOf", "number"},
};

void check_keywords(const Json& schema, const std::string& path) {
  for (const auto& [key, value] : schema.items()) {
    const std::string_view name = key;  // clang 14 does not capture structured bindings
    const bool is_known = std::any_of(kKeywords.begin(), kKeywords.end(), [&](const Keyword& k) { return k.name == name; });
    if (!is_known)
      fail(ErrorCode::InvalidArgument, "{}/{}: the keyword '{}' cannot be enforced; remove it, or name it 'x-{}' if it is an annotation",
           path, key, key, key);
    if (key == "uniqueItems" && value != Json(false))
      fail(ErrorCode::InvalidArgument, "{}/uniqueItems cannot be enforced; remove it", path);
  }
}

// Types the schema allows. Without `type`, keywords about one type mean that type; without those, all are allowed.
std::vector<std::string> types_of(const Json& schema) {
  std::vector<std::string> types;
  const auto add = [&](std::string_view type) {
    if (std::find(types.begin(), types.end(), type) == types.end()) types.emplace_back(type);
  };
  if (schema.contains("type")) {
    for (const Json& type : schema["type"]) add(type.get_ref<const std::string&>());
  } else {
    for (const Keyword& keyword : kKeywords) {
      if (!keyword.type.empty() && schema.contains(keyword.name)) add(keyword.type);
    }
  }
  if (types.empty()) types = {"null", "boolean", "object", "array", "string", "number"};
  if (std::find(types.begin(), types.end(), "number") != types.end()) std::erase(types, "integer");
  return types;
}

bool has_type(const Json& value, const std::vector<std::string>& types) {
  return std::any_of(types.begin(), types.end(), [&](const std::string& type) {
    if (type == "null") return value.is_null();
    if (type == "boolean") return value.is_boolean();
    if (type == "object") return value.is_object();
    if (type == "array") return value.is_array();
    if (type == "string") return value.is_string();
    return type == "number" ? value.is_number() : value.is_number_integer();
  });
}

}  // namespace

bool reads(const Automaton& automaton, std::string_view text, bool is_prefix) {
  constexpr int64_t kMaxWork = 20'000'000;
  Machine machine(automaton);
  machine.limit_work(kMaxWork);
  const Machine::Config config = machine.run(machine.initial(), text);
  return is_prefix ? config != Machine::kDead : machine.is_accepting(config);
}

bool SchemaCompiler::accepts(const Json& schema, const std::string& path, std::string_view text) {
  AutomatonBuilder builder(text_.options().max_states);
  JsonText json(builder, text_.options());
  const int32_t root = SchemaCompiler(json, document_, budget_).compile(schema, path);
  try {
    return reads(builder.finish(root), text, false);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::InvalidArgument) return false;  // nothing validates against it
    throw;
  }
}

int32_t SchemaCompiler::compile(const Json& schema, const std::string& path) {
  const int32_t root = rule_of(schema, path);
  while (!tasks_.empty()) {
    const Task task = std::move(tasks_.front());
    tasks_.pop_front();
    fill(task);
  }
  return root;
}

int32_t SchemaCompiler::rule_of(const Json& schema, const std::string& path) {
  std::string key = schema.dump();
  budget_.spend(key.size() + 64);
  const auto [it, is_new] = rules_.try_emplace(std::move(key), 0);
  if (is_new) {
    it->second = builder_.add_rule(path);
    tasks_.push_back({it->second, schema, path});
  }
  return it->second;
}

void SchemaCompiler::fill(const Task& task) {
  const auto& [index, schema, path] = task;
  const Rule rule = builder_.rule(index);
  // A reference alone, or a choice alone, goes to the rules of what is meant: they may lead back here.
  std::vector<std::string> keys;
  if (schema.is_object()) {
    for (const auto& [key, value] : schema.items()) {
      if (!is_annotation(key)) keys.push_back(key);
    }
  }
  if (keys == std::vector<std::string>{"$ref"}) {
    return builder_.add_call(rule.start, rule_of(resolver_.resolve(schema["$ref"], path), path + "/$ref"), rule.end);
  }
  if (keys == std::vector<std::string>{"allOf"} && schema["allOf"].is_array() && schema["allOf"].size() == 1) {
    return builder_.add_call(rule.start, rule_of(schema["allOf"][0], path + "/allOf/0"), rule.end);
  }
  if (keys.size() == 1 && (keys[0] == "anyOf" || keys[0] == "oneOf") && schema[keys[0]].is_array() && !schema[keys[0]].empty()) {
    const Json& list = schema[keys[0]];
    for (size_t i = 0; i < list.size(); ++i) {
      builder_.add_call(rule.start, rule_of(list[i], path + "/" + keys[0] + "/" + std::to_string(i)), rule.end);
    }
    return;
  }
  for (const Json& alternative : resolver_.alternatives(schema, path)) add_alternative(rule.start, alternative, path, rule.end);
}

void SchemaCompiler::add_alternative(int32_t from, const Json& schema, const std::string& path, int32_t to) {
  check_keywords(schema, path);
  if (schema.empty()) return builder_.add_call(from, text_.value(), to);
  if (schema.contains("enum")) return add_enum(from, schema, path, to);
  for (const std::string& type : types_of(schema)) {
    if (type == "null") {
      builder_.add_text(from, "null", to);
    } else if (type == "boolean") {
      builder_.add_choices(from, {"true", "false"}, to);
    } else if (type == "object") {
      add_object(from, schema, path, to);
    } else if (type == "array") {
      add_array(from, schema, path, to);
    } else if (type == "string") {
      add_string(from, schema, path, to);
    } else {
      add_number(from, schema, type == "integer", path, to);
    }
  }
}

void SchemaCompiler::add_enum(int32_t from, const Json& schema, const std::string& path, int32_t to) {
  if (!schema["enum"].is_array()) fail(ErrorCode::InvalidArgument, "{}/enum should be a list", path);
  Json others = schema;
  others.erase("enum");
  const bool is_type_alone = others.size() == (others.contains("type") ? 1 : 0);
  const std::vector<std::string> types = types_of(others);
  std::vector<std::string> texts;
  for (const Json& value : schema["enum"]) {
    if (!has_type(value, types)) continue;
    const std::string text = value.is_string() ? '"' + json_spelling(value.get_ref<const std::string&>()) + '"' : value.dump();
    if (!is_type_alone && !accepts(others, path, text)) continue;
    if (value.is_structured()) add_value(from, value, to);
    else texts.push_back(text);
  }
  builder_.add_choices(from, std::move(texts), to);
}

void SchemaCompiler::add_value(int32_t from, const Json& value, int32_t to) {
  if (value.is_string()) return builder_.add_text(from, '"' + json_spelling(value.get_ref<const std::string&>()) + '"', to);
  if (!value.is_structured()) return builder_.add_text(from, value.dump(), to);
  from = text_.add_token(from, value.is_object() ? "{" : "[");
  bool is_first = true;
  for (const auto& [key, item] : value.items()) {
    if (!is_first) from = text_.add_token(from, ",");
    is_first = false;
    if (value.is_object()) from = text_.add_token(text_.add_token(from, '"' + json_spelling(key) + '"'), ":");
    const int32_t after = builder_.add_node(builder_.rule_of(from));
    add_value(from, item, after);
    from = text_.add_space(after);
  }
  builder_.add_text(from, value.is_object() ? "}" : "]", to);
}

}  // namespace tokamak::llm::grammar
