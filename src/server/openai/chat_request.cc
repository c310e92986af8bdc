#include "server/openai/chat_request.h"

#include <algorithm>
#include <array>

#include "server/openai/api_error.h"
#include "server/openai/chat_choice.h"
#include "server/openai/completion_request.h"
#include "server/openai/json_text.h"

namespace tokamak::server::openai {
namespace {

constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant", "tool"};
constexpr int kMaxTopLogprobs = 20;

std::string read_parts(const Json& parts, const std::string& path) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string part_path = fmt::format("{}[{}]", path, i);
    Fields part(parts[i], part_path);
    const std::string* type = part.string("type");
    if (!type) bad_request(part_path + ".type", "'{}' has no 'type'", part_path);
    if (*type != "text" && *type != "refusal")
      bad_request(part_path + ".type", "'{}' is of type '{}': this model reads text alone", part_path, type->substr(0, 50));
    const std::string* piece = part.string(*type);
    if (!piece) bad_request(part_path, "'{}' has no '{}'", part_path, *type);
    if (i) text += '\n';
    text += *piece;
    part.finish();
  }
  return text;
}

// OpenAI sends arguments as the text of a JSON object; templates print objects.
Json read_calls(const Json& calls, const std::string& path) {
  Json out = Json::array();
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string call_path = fmt::format("{}[{}]", path, i);
    Fields call(calls[i], call_path);
    const Json* function = call.object("function");
    if (!function) bad_request(call_path + ".function", "'{}' has no 'function'", call_path);
    Fields inner(*function, call_path + ".function");
    if (!inner.string("name")) bad_request(call_path + ".function.name", "'{}.function' has no 'name'", call_path);
    Json copy = calls[i];
    Json& arguments = copy["function"]["arguments"];
    if (arguments.is_string()) {
      // Within the depth of any body, as it is a document of its own. Text that is no object stays text.
      const std::string text = arguments.get<std::string>();
      try {
        if (Json parsed = parse_json(text); parsed.is_object()) arguments = std::move(parsed);
      } catch (const ApiError&) {
      }
    } else if (arguments.is_null()) {
      arguments = Json::object();
    }
    out.push_back(std::move(copy));
  }
  return out;
}

llm::ChatMessage read_message(const Json& json, const std::string& path) {
  Fields fields(json, path);
  const std::string* role = fields.string("role");
  if (!role) bad_request(path + ".role", "'{}' has no 'role'", path);
  if (std::ranges::find(kRoles, *role) == kRoles.end())
    bad_request(path + ".role", "'{}.role' is '{}'; it should be {}", path, role->substr(0, 50), fmt::join(kRoles, ", "));
  llm::ChatMessage message{.role = *role == "developer" ? "system" : *role, .content = {}};

  const Json* content = fields.find("content");
  const Json* calls = *role == "assistant" ? fields.array("tool_calls") : nullptr;
  if (content && content->is_array()) message.content = read_parts(*content, path + ".content");
  else if (content && content->is_string()) message.content = content->get<std::string>();
  else if (content)
    bad_request(path + ".content", "'{}.content' should be a string or an array of parts, it is {}", path, content->type_name());
  else if (*role != "assistant") bad_request(path + ".content", "'{}' has no 'content'", path);
  if (calls && !calls->empty()) message.extra["tool_calls"] = read_calls(*calls, path + ".tool_calls");
  for (const char* name : {"name", "tool_call_id", "reasoning_content", "reasoning"})
    if (const std::string* text = fields.string(name)) message.extra[name] = *text;
  fields.ignore({"refusal", "annotations"});
  fields.refuse("audio", "this model reads text alone");
  fields.refuse("function_call", "it is deprecated; use tool_calls");
  fields.finish();
  return message;
}

// Forms other than text are refused by name, so that a client learns what is missing.
void refuse_other_media(Fields& fields) {
  if (const Json* modalities = fields.array("modalities"))
    for (const Json& one : *modalities)
      if (one != "text") bad_request("modalities", "'modalities' should be [\"text\"]: this model writes text alone");
  fields.refuse("audio", "this model writes text alone");
  fields.refuse("prediction", "predicted outputs are not used; speculation is a setting of the model");
  fields.refuse("web_search_options", "the server does not search the web");
  fields.refuse("functions", "it is deprecated; use tools");
  fields.refuse("function_call", "it is deprecated; use tool_choice");
}

}  // namespace

std::vector<llm::ChatMessage> read_messages(Fields& fields) {
  const Json* found = fields.array("messages");
  if (!found || found->empty()) bad_request("messages", "you must provide 'messages', an array that is not empty");
  std::vector<llm::ChatMessage> messages;
  messages.reserve(found->size());
  for (size_t i = 0; i < found->size(); ++i) messages.push_back(read_message((*found)[i], fmt::format("messages[{}]", i)));
  return messages;
}

ChatRequest read_chat_request(const Json& body) {
  Fields fields(body, "");
  ChatRequest request{{read_generation_fields(fields)}};
  request.messages = read_messages(fields);
  request.tools = read_tools(fields);
  request.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(true);
  request.max_tokens = fields.integer("max_tokens", 1, INT32_MAX);
  if (const auto newer = fields.integer("max_completion_tokens", 1, INT32_MAX)) {
    request.max_tokens = newer;
    request.max_tokens_name = "max_completion_tokens";
  }
  if (request.max_tokens && request.sampling.min_tokens > *request.max_tokens)
    bad_request("min_tokens", "'min_tokens' is {}; it should be at most {} ({})", request.sampling.min_tokens, request.max_tokens_name,
                *request.max_tokens);

  const bool logprobs = fields.boolean("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, kMaxTopLogprobs);
  if (top && !logprobs) bad_request("top_logprobs", "'top_logprobs' is only allowed when 'logprobs' is true");
  request.top_logprobs = logprobs ? static_cast<int>(top.value_or(0)) : -1;

  if (const Json* variables = fields.object("chat_template_kwargs")) request.template_variables = *variables;
  if (const std::string* effort = fields.string("reasoning_effort")) {
    if (request.template_variables.is_null()) request.template_variables = Json::object();
    request.template_variables["reasoning_effort"] = *effort;
  }
  if (const Json* documents = fields.array("documents")) request.documents = *documents;
  refuse_other_media(fields);
  fields.refuse("echo", "it is an option of /v1/completions");
  if (request.constraint && request.tools.is_forced())
    bad_request(request.constraint.param, "'{}' and a tool_choice that demands a call both constrain the answer; give one of them",
                request.constraint.param);
  fields.finish();
  return request;
}

std::vector<int32_t> chat_prompt(const ChatRequest& request, const LlmModel& model) {
  llm::ChatOptions options{.add_generation_prompt = request.add_generation_prompt,
                           .tools = {},
                           .documents = request.documents,
                           .variables = request.template_variables};
  if (!request.tools.is_active()) return model.chat_prompt_ids(request.messages, options);
  if (model.chat_template_text(true).find("tools") != std::string::npos) {
    options.tools = request.tools.tools;
    return model.chat_prompt_ids(request.messages, options);
  }
  std::vector<llm::ChatMessage> messages = request.messages;
  if (messages.front().role == "system") messages.front().content += "\n\n" + describe_tools(request.tools);
  else messages.insert(messages.begin(), llm::ChatMessage{.role = "system", .content = describe_tools(request.tools)});
  return model.chat_prompt_ids(messages, options);
}

GenerationJob make_job(ChatRequest request, std::shared_ptr<LlmModel> model, const std::string& id) {
  GenerationJob job = begin_job(request, model, id, "chat.completion", "chat.completion.chunk");
  llm::Request one{.prompt_ids = chat_prompt(request, *model), .sampling = request.sampling, .priority = request.priority};
  const bool has_tools = request.tools.is_active();
  const ToolFormat format = has_tools ? tool_format_of(model->chat_template_text(true)) : ToolFormat::Tagged;
  one.mask = make_mask(*model, request.tools.is_forced() ? tool_constraint(request.tools, format) : request.constraint);
  // These two mark calls with special tokens.
  if (has_tools && format != ToolFormat::Tagged) one.sampling.skip_special_tokens = false;
  one.sampling.logprobs = request.top_logprobs;
  one.sampling.max_tokens = answer_limit(one.prompt_ids.size(), request.max_tokens, model->context_length(),
                                         request.max_tokens ? request.max_tokens_name : "messages");
  const auto prompt_ids = request.return_token_ids ? std::make_shared<const std::vector<int32_t>>(one.prompt_ids) : nullptr;
  if (prompt_ids) {
    job.whole_extra = R"(,"prompt_token_ids":)";
    append_integers(job.whole_extra, *prompt_ids);
  }
  const bool is_named = request.tools.choice.mode == ToolChoice::Mode::Named;
  for (int i = 0; i < request.sampling.n; ++i) {
    ChoiceOptions options{.index = i,
                          .prompt_tokens = static_cast<int>(one.prompt_ids.size()),
                          .num_top_logprobs = request.top_logprobs,
                          .stop_token_ids = request.sampling.stop_token_ids,
                          .prompt_ids = prompt_ids};
    std::optional<ToolCallParser> parser;
    if (has_tools) parser.emplace(format, request.tools.is_forced(), request.tools.parallel_calls ? INT32_MAX : 1);
    job.choices.push_back(std::make_unique<ChatChoice>(job.frame, *model, std::move(options), std::move(parser), is_named));
  }
  job.requests.push_back(std::move(one));
  return job;
}

}  // namespace tokamak::server::openai
