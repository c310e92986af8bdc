#include "server/openai/structured_output.h"

#include "server/openai/api_error.h"

namespace tokamak::server::openai {
namespace {

using Kind = Constraint::Kind;

std::vector<std::string> read_choices(const Json& array, const std::string& param) {
  if (!array.is_array() || array.empty()) bad_request(param, "'{}' should be an array of strings, not empty", param);
  std::vector<std::string> choices;
  for (const Json& choice : array) {
    if (!choice.is_string()) bad_request(param, "'{}' should be an array of strings, it holds {}", param, choice.type_name());
    choices.push_back(choice.get<std::string>());
  }
  return choices;
}

// A schema as an object, or as its text.
std::string schema_text(const Json& schema, const std::string& param) {
  if (schema.is_string()) return schema.get<std::string>();
  if (!schema.is_object() && !schema.is_boolean()) bad_request(param, "'{}' should be a JSON schema, it is {}", param, schema.type_name());
  return schema.dump();
}

class Reader {
 public:
  void set(Kind kind, std::string param, std::string text, std::vector<std::string> choices = {}) {
    if (made_) bad_request(param, "'{}' and '{}' both constrain the answer; give one of them", made_.param, param);
    made_ = Constraint{.kind = kind, .text = std::move(text), .choices = std::move(choices), .calls = {}, .param = std::move(param)};
  }

  void response_format(Fields& fields) {
    const Json* found = fields.object("response_format");
    if (!found) return;
    Fields format(*found, "response_format");
    const std::string* type = format.string("type");
    if (!type) bad_request("response_format.type", "'response_format' has no 'type'");
    if (*type == "json_object") {
      set(Kind::JsonObject, "response_format", "");
    } else if (*type == "json_schema") {
      const Json* described = format.object("json_schema");
      if (!described) bad_request("response_format.json_schema", "'response_format' of type json_schema has no 'json_schema'");
      Fields inner(*described, "response_format.json_schema");
      inner.ignore({"name", "description", "strict"});  // always strict
      const Json* schema = inner.find("schema");
      if (!schema) bad_request("response_format.json_schema.schema", "'response_format.json_schema' has no 'schema'");
      const std::string param = "response_format.json_schema.schema";
      set(Kind::JsonSchema, param, schema_text(*schema, param));
      inner.finish();
    } else if (*type != "text") {
      bad_request("response_format.type", "'response_format.type' is '{}'; it should be text, json_object or json_schema", *type);
    }
    format.finish();
  }

  // With a prefix ("guided_") or inside an object of vLLM's newer form.
  void forms(Fields& fields, const std::string& prefix) {
    if (const Json* schema = fields.find(prefix + "json")) {
      const std::string param = fields.path_of(prefix + "json");
      set(Kind::JsonSchema, param, schema_text(*schema, param));
    }
    if (const std::string* text = fields.string(prefix + "regex")) set(Kind::Regex, fields.path_of(prefix + "regex"), *text);
    if (const std::string* text = fields.string(prefix + "grammar")) set(Kind::Grammar, fields.path_of(prefix + "grammar"), *text);
    if (const Json* array = fields.find(prefix + "choice")) {
      const std::string param = fields.path_of(prefix + "choice");
      set(Kind::Choice, param, "", read_choices(*array, param));
    }
    if (fields.boolean(prefix + "json_object").value_or(false)) set(Kind::JsonObject, fields.path_of(prefix + "json_object"), "");
  }

  Constraint take() { return std::move(made_); }

 private:
  Constraint made_;
};

std::shared_ptr<const llm::Grammar> compile(const Constraint& c) {
  switch (c.kind) {
    case Kind::JsonSchema: return llm::Grammar::from_json_schema(c.text);
    case Kind::Regex: return llm::Grammar::from_regex(c.text);
    case Kind::Choice: return llm::Grammar::from_choices(c.choices);
    case Kind::Grammar: return llm::Grammar::from_ebnf(c.text);
    case Kind::Tools: return llm::Grammar::from_tools(c.text, c.calls);
    default: return llm::Grammar::json_object();
  }
}

// Lengths keep fields apart.
std::string key_of(const Constraint& c) {
  std::string key = fmt::format("{} {}:", static_cast<int>(c.kind), c.text.size()) + c.text;
  const auto add = [&](const std::string& text) { key += fmt::format(" {}:", text.size()) + text; };
  for (const std::string& choice : c.choices) add(choice);
  if (c.kind == Kind::Tools) {
    for (const std::string& text : {c.calls.arguments_key, c.calls.begin, c.calls.end, c.calls.separator}) add(text);
    key += fmt::format(" {} {}", c.calls.min_calls, c.calls.max_calls);
  }
  return key;
}

}  // namespace

Constraint read_constraint(Fields& fields) {
  Reader reader;
  reader.response_format(fields);
  reader.forms(fields, "guided_");
  if (const Json* found = fields.object("structured_outputs")) {
    Fields inner(*found, "structured_outputs");
    reader.forms(inner, "");
    inner.finish();
  }
  return reader.take();
}

std::shared_ptr<const llm::TokenMask> make_mask(LlmModel& model, const Constraint& constraint) {
  if (!constraint) return nullptr;
  try {
    return model.token_mask(key_of(constraint), [&] { return compile(constraint); });
  } catch (const Error& error) {
    if (error.code() == ErrorCode::Internal) throw;
    throw ApiError(400, "invalid_request_error", fmt::format("'{}' cannot be enforced: {}", constraint.param, error.what()),
                   constraint.param);
  }
}

}  // namespace tokamak::server::openai
