#include "llm/chat_template.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "llm/template/interpreter.h"
#include "llm/template/parser.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm {

namespace {

constexpr int kMaxContextDepth = 100;

[[noreturn]] void too_deep() {
  fail(ErrorCode::InvalidArgument, "chat template: messages, tools or variables are nested more than {} deep", kMaxContextDepth);
}

// Before anything copies `json`: nlohmann's copies recurse.
void check_depth(const TemplateContext& json, int depth = 0) {
  if (depth > kMaxContextDepth) too_deep();
  if (!json.is_structured()) return;
  for (const TemplateContext& item : json) check_depth(item, depth + 1);
}

std::string valid_text(const std::string& text) { return tokenizer::is_valid_utf8(text) ? text : tokenizer::to_valid_utf8(text); }

jinja::Value to_value(const TemplateContext& json, int depth) {
  using jinja::Value;
  if (depth > kMaxContextDepth) too_deep();
  switch (json.type()) {
    case TemplateContext::value_t::null: return jinja::None();
    case TemplateContext::value_t::boolean: return json.get<bool>();
    case TemplateContext::value_t::number_integer: return json.get<int64_t>();
    case TemplateContext::value_t::number_unsigned: {
      const auto n = json.get<uint64_t>();
      return n <= static_cast<uint64_t>(INT64_MAX) ? Value(static_cast<int64_t>(n)) : Value(static_cast<double>(n));
    }
    case TemplateContext::value_t::number_float: return json.get<double>();
    case TemplateContext::value_t::string: return valid_text(json.get_ref<const std::string&>());
    case TemplateContext::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(to_value(item, depth + 1));
      return Value::list(std::move(items));
    }
    case TemplateContext::value_t::object: {
      jinja::Dict dict;
      for (const auto& [key, value] : json.items()) dict.set(valid_text(key), to_value(value, depth + 1));
      return Value::dict(std::move(dict));
    }
    default: fail(ErrorCode::InvalidArgument, "chat template: the context holds a {}", json.type_name());
  }
}

nlohmann::json parse_config(std::string_view text) {
  try {
    auto config = text.empty() ? nlohmann::json::object() : nlohmann::json::parse(text);
    if (!config.is_object()) fail(ErrorCode::Corrupt, "tokenizer_config.json should be an object, it is {}", config.type_name());
    return config;
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorCode::Corrupt, "tokenizer_config.json is not JSON: {}", e.what());
  }
}

// Fields that are null count as missing; reasoning has three names, of which templates read the first (as in `transformers` 5).
TemplateContext normalize_message(const ChatMessage& message) {
  TemplateContext made = {{"role", message.role}, {"content", message.content}};
  if (!message.extra.is_null() && !message.extra.is_object()) {
    fail(ErrorCode::InvalidArgument, "chat message: the further fields should be an object, they are {}", message.extra.type_name());
  }
  for (const auto& [key, value] : message.extra.items()) {
    if (value.is_null()) {
      made.erase(key);
    } else {
      made[key] = value;
    }
  }
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    if (!made.contains(name)) continue;
    const TemplateContext reasoning = made[name];
    made["reasoning_content"] = reasoning;
    if (!made.contains("thinking")) made["thinking"] = reasoning;
    break;
  }
  return made;
}

}  // namespace

ChatTemplate ChatTemplate::parse(std::string_view jinja, const ChatTemplateLimits& limits) {
  const std::string source = tokenizer::to_valid_utf8(jinja);
  ChatTemplate made;
  made.template_ = jinja::parse_template(source, limits.max_depth);
  made.limits_ = limits;
  return made;
}

std::string ChatTemplate::render(const TemplateContext& context, int64_t now_unix) const {
  CHECK(template_);
  constexpr int kLevelsPerDepth = 8;  // a nested block is several nested evaluations
  try {
    const jinja::Value value = to_value(context, 0);
    if (!value.as_dict()) fail(ErrorCode::InvalidArgument, "chat template: the context should be an object, it is {}", context.type_name());
    jinja::Interpreter interpreter(*value.as_dict(), jinja::Budget(limits_.max_steps, limits_.max_output_bytes),
                                   limits_.max_depth * kLevelsPerDepth, now_unix);
    return interpreter.render(*template_);
  } catch (const jinja::Fault& fault) {  // outside any statement
    fail(fault.code(), "chat template: {}", fault.what());
  }
}

std::string find_chat_template(std::string_view tokenizer_config_json, std::string_view chat_template_jinja, bool has_tools) {
  if (!chat_template_jinja.empty()) return std::string(chat_template_jinja);
  const nlohmann::json config = parse_config(tokenizer_config_json);
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) return {};
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array())
    fail(ErrorCode::Corrupt, "tokenizer_config.json: chat_template should be a string or a list, it is {}", it->type_name());
  const std::string* chosen = nullptr;
  std::string names;
  for (const auto& entry : *it) {
    const auto field = [&](const char* key) -> const std::string* {
      if (!entry.is_object() || !entry.contains(key) || !entry[key].is_string()) {
        fail(ErrorCode::Corrupt, "tokenizer_config.json: an entry of chat_template should have a string '{}'", key);
      }
      return entry[key].get_ptr<const std::string*>();
    };
    const std::string* name = field("name");
    const std::string* text = field("template");
    names += names.empty() ? *name : ", " + *name;
    if ((*name == "default" && !chosen) || (*name == "tool_use" && has_tools)) chosen = text;
  }
  if (!chosen) fail(ErrorCode::NotFound, "tokenizer_config.json: none of the chat templates is named 'default' (found: {})", names);
  return *chosen;
}

TemplateContext make_chat_context(const std::vector<ChatMessage>& messages, std::string_view tokenizer_config_json,
                                  const ChatOptions& options) {
  for (const TemplateContext* json : {&options.tools, &options.documents, &options.variables}) check_depth(*json);
  for (const ChatMessage& message : messages) check_depth(message.extra);
  const nlohmann::json config = parse_config(tokenizer_config_json);
  TemplateContext context = TemplateContext::object();
  static constexpr std::array kSpecialTokens = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
  for (const char* key : kSpecialTokens) {
    const auto it = config.find(key);
    if (it == config.end()) continue;
    if (it->is_string()) context[key] = it->get<std::string>();
    if (it->is_object() && it->contains("content") && (*it)["content"].is_string()) context[key] = (*it)["content"].get<std::string>();
  }
  TemplateContext list = TemplateContext::array();
  for (const ChatMessage& message : messages) list.push_back(normalize_message(message));
  context["messages"] = std::move(list);
  context["tools"] = options.tools;
  context["documents"] = options.documents;
  context["add_generation_prompt"] = options.add_generation_prompt;
  if (!options.variables.is_null() && !options.variables.is_object()) {
    fail(ErrorCode::InvalidArgument, "chat template variables should be an object, they are {}", options.variables.type_name());
  }
  for (const auto& [key, value] : options.variables.items()) context[key] = value;
  return context;
}

}  // namespace tokamak::llm
