#pragma once
// The body of /v1/chat/completions.

#include <optional>
#include <string>
#include <vector>

#include "server/openai/generation.h"
#include "server/openai/generation_fields.h"
#include "server/openai/tools.h"

namespace tokamak::server::openai {

struct ChatRequest : GenerationFields {
  std::vector<llm::ChatMessage> messages;
  ToolOffer tools;
  bool add_generation_prompt = true;
  llm::TemplateContext template_variables;  // chat_template_kwargs, reasoning_effort
  llm::TemplateContext documents;
  std::optional<int64_t> max_tokens;
  std::string max_tokens_name = "max_tokens";  // as the request spells it
  int top_logprobs = -1;
};

// "messages": roles system, developer (a system message to templates), user, assistant, tool; content is a text or parts of text, joined by
// line breaks. Arguments of earlier tool calls become objects, as templates expect. Throws ApiError.
std::vector<llm::ChatMessage> read_messages(Fields& fields);

// Throws ApiError.
ChatRequest read_chat_request(const Json& body);

// The conversation as the model's prompt. Throws ApiError, Unsupported without a chat template, InvalidArgument when it refuses.
std::vector<int32_t> chat_prompt(const ChatRequest& request, const LlmModel& model);

// What to do for it; `id` is the response's. Throws as chat_prompt().
GenerationJob make_job(ChatRequest request, std::shared_ptr<LlmModel> model, const std::string& id);

}  // namespace tokamak::server::openai
