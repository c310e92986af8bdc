#include "server/openai/tools.h"

#include <algorithm>

#include "server/openai/api_error.h"

namespace tokamak::server::openai {
namespace {

constexpr int kMaxForcedCalls = 8;

bool is_name(std::string_view name) {
  const auto is_allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= 64 && std::ranges::all_of(name, is_allowed);
}

std::string_view name_of(const Json& tool) { return tool["function"]["name"].get_ref<const std::string&>(); }

void check_tool(const Json& tool, const std::string& path) {
  Fields fields(tool, path);
  const std::string* type = fields.string("type");
  if (!type || *type != "function") bad_request(path + ".type", "'{}.type' should be \"function\"", path);
  const Json* function = fields.object("function");
  if (!function) bad_request(path + ".function", "'{}' has no 'function'", path);
  Fields inner(*function, path + ".function");
  const std::string* name = inner.string("name");
  if (!name || !is_name(*name))
    bad_request(path + ".function.name", "'{}.function.name' should be 1 to 64 letters, digits, underscores or dashes", path);
  inner.string("description");
  inner.object("parameters");
  inner.boolean("strict");
  inner.finish();
  fields.finish();
}

ToolChoice read_choice(Fields& fields, const Json& tools) {
  using Mode = ToolChoice::Mode;
  const Json* found = fields.find("tool_choice");
  if (!found) return {tools.empty() ? Mode::None : Mode::Auto, {}};
  if (found->is_string()) {
    const auto& word = found->get_ref<const std::string&>();
    if (word == "none") return {};
    if (word != "auto" && word != "required")
      bad_request("tool_choice", "'tool_choice' is '{}'; it should be none, auto, required or a function", word.substr(0, 50));
    if (tools.empty()) bad_request("tool_choice", "'tool_choice' is only allowed when 'tools' are specified");
    return {word == "auto" ? Mode::Auto : Mode::Required, {}};
  }
  Fields choice(*found, "tool_choice");
  const std::string* type = choice.string("type");
  if (!type || *type != "function") bad_request("tool_choice.type", "'tool_choice.type' should be \"function\"");
  const Json* function = choice.object("function");
  if (!function) bad_request("tool_choice.function", "'tool_choice' has no 'function'");
  Fields inner(*function, "tool_choice.function");
  const std::string* name = inner.string("name");
  if (!name) bad_request("tool_choice.function.name", "'tool_choice.function' has no 'name'");
  inner.finish();
  choice.finish();
  if (std::ranges::none_of(tools, [&](const Json& tool) { return name_of(tool) == *name; }))
    bad_request("tool_choice.function.name", "'tool_choice' names the function '{}', which is not among 'tools'", name->substr(0, 64));
  return {Mode::Named, *name};
}

}  // namespace

ToolOffer read_tools(Fields& fields) {
  ToolOffer offer;
  if (const Json* found = fields.array("tools")) {
    for (size_t i = 0; i < found->size(); ++i) check_tool((*found)[i], fmt::format("tools[{}]", i));
    offer.tools = *found;
  }
  offer.choice = read_choice(fields, offer.tools);
  offer.parallel_calls = fields.boolean("parallel_tool_calls").value_or(true);
  return offer;
}

ToolFormat tool_format_of(std::string_view chat_template) {
  if (chat_template.find("[TOOL_CALLS]") != std::string_view::npos) return ToolFormat::Mistral;
  if (chat_template.find("<tool_call>") != std::string_view::npos) return ToolFormat::Tagged;
  const bool is_llama =
      chat_template.find("<|python_tag|>") != std::string_view::npos ||
      (chat_template.find("tool_calls") != std::string_view::npos && chat_template.find("\"parameters\": ") != std::string_view::npos);
  return is_llama ? ToolFormat::Llama : ToolFormat::Tagged;
}

Constraint tool_constraint(const ToolOffer& offer, ToolFormat format) {
  Constraint constraint{.kind = Constraint::Kind::Tools, .text = {}, .choices = {}, .calls = {}, .param = "tools"};
  const bool is_named = offer.choice.mode == ToolChoice::Mode::Named;
  Json allowed = Json::array();
  for (const Json& tool : offer.tools)
    if (!is_named || name_of(tool) == offer.choice.name) allowed.push_back(tool);
  constraint.text = allowed.dump();
  constraint.calls.max_calls = is_named || !offer.parallel_calls ? 1 : kMaxForcedCalls;
  switch (format) {
    case ToolFormat::Tagged:
      constraint.calls.begin = "<tool_call>\n";
      constraint.calls.end = "\n</tool_call>";
      break;
    case ToolFormat::Llama:
      constraint.calls.arguments_key = "parameters";
      constraint.calls.separator = "; ";
      break;
    case ToolFormat::Mistral:  // [TOOL_CALLS] is one special token, which a grammar over text does not write; the parser needs none
      constraint.calls.begin = "[";
      constraint.calls.end = "]";
      break;
  }
  return constraint;
}

std::string describe_tools(const ToolOffer& offer) {
  std::string text = "You may call functions to answer. These are their JSON descriptions, one a line:\n<tools>\n";
  for (const Json& tool : offer.tools) text += tool.dump() + "\n";
  return text +
         "</tools>\nTo call one, write a JSON object with its name and arguments between tags:\n"
         "<tool_call>\n{\"name\": \"function_name\", \"arguments\": {}}\n</tool_call>";
}

}  // namespace tokamak::server::openai
