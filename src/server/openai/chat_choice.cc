#include "server/openai/chat_choice.h"

#include <algorithm>

#include "server/openai/json_text.h"

namespace tokamak::server::openai {
namespace {

void append_call(std::string& out, const AnswerDelta::Call& call, bool is_delta) {
  out += '{';
  if (is_delta) {
    out += R"("index":)";
    append_integer(out, call.index);
    out += ',';
  }
  if (call.begins) {
    out += R"("id":)";
    append_json_string(out, call.id);
    out += R"(,"type":"function",)";
  }
  out += R"("function":{)";
  if (call.begins) {
    out += R"("name":)";
    append_json_string(out, call.name);
    out += ',';
  }
  out += R"("arguments":)";
  append_json_string(out, call.arguments);
  out += "}}";
}

void append_calls(std::string& out, const std::vector<AnswerDelta::Call>& calls, bool is_delta) {
  out += R"("tool_calls":[)";
  for (const AnswerDelta::Call& call : calls) {
    if (&call != &calls.front()) out += ',';
    append_call(out, call, is_delta);
  }
  out += ']';
}

// {"token", "logprob", "bytes"; the caller closes it.
void append_token_logprob(std::string& out, const LlmModel& model, int32_t token, float logprob) {
  out += R"({"token":)";
  append_json_string(out, token_text(model, token));
  out += R"(,"logprob":)";
  append_logprob(out, logprob);
  out += R"(,"bytes":[)";
  const std::string& bytes = model.token_bytes(token);
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i) out += ',';
    append_integer(out, static_cast<unsigned char>(bytes[i]));
  }
  out += ']';
}

}  // namespace

ChatChoice::ChatChoice(std::shared_ptr<const ChunkFrame> frame, const LlmModel& model, ChoiceOptions options,
                       std::optional<ToolCallParser> tools, bool is_named)
    : ChoiceWriter(std::move(frame), model, std::move(options)), tools_(std::move(tools)), is_named_(is_named) {}

void ChatChoice::read(const llm::Event& event, AnswerDelta& delta) {
  delta.content.clear();
  delta.calls.clear();
  if (!tools_) {
    delta.content = event.text;
    return;
  }
  tools_->push(event.text, delta);
  if (event.finish_reason != llm::FinishReason::None) tools_->finish(delta);
}

std::string_view ChatChoice::finish_reason(const llm::Event& event) const {
  const bool has_called = event.finish_reason == llm::FinishReason::Stop && tools_ && tools_->num_calls() > 0 && !is_named_;
  return has_called ? "tool_calls" : llm::to_string(event.finish_reason);
}

void ChatChoice::stream(const llm::Event& event, std::string& out) {
  count(event);
  if (wants_logprobs()) add_logprobs(event);
  if (std::exchange(is_first_, false)) {
    frame_->open_choice(out, options_.index);
    out += R"(,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null)";
    std::string prompt_ids;
    if (options_.prompt_ids) {
      prompt_ids = R"(,"prompt_token_ids":)";
      append_integers(prompt_ids, *options_.prompt_ids);
    }
    frame_->close_choice(out, options_.prompt_tokens, 0, prompt_ids);
  }
  read(event, delta_);
  const bool ends = event.finish_reason != llm::FinishReason::None;
  if (delta_.empty() && !ends && logprobs_.empty() && !(options_.prompt_ids && !event.token_ids.empty())) return;
  frame_->open_choice(out, options_.index);
  out += R"(,"delta":{)";
  if (!delta_.content.empty()) {
    out += R"("content":)";
    append_json_string(out, delta_.content);
  }
  if (!delta_.calls.empty()) {
    if (!delta_.content.empty()) out += ',';
    append_calls(out, delta_.calls, true);
  }
  out += '}';
  append_logprobs(out);
  append_finish(out, event, finish_reason(event));
  append_token_ids(out, event.token_ids);
  frame_->close_choice(out, options_.prompt_tokens, num_tokens_);
}

void ChatChoice::collect(const llm::Event& event) {
  count(event);
  if (wants_logprobs()) add_logprobs(event);
  if (options_.prompt_ids) ids_.insert(ids_.end(), event.token_ids.begin(), event.token_ids.end());
  read(event, delta_);
  content_ += delta_.content;
  for (AnswerDelta::Call& call : delta_.calls) {
    if (call.begins) calls_.push_back(std::move(call));
    else calls_.back().arguments += call.arguments;
  }
  if (event.finish_reason != llm::FinishReason::None) last_ = event;
}

void ChatChoice::append_choice(std::string& out, int index) {
  out += R"({"index":)";
  append_integer(out, index);
  out += R"(,"message":{"role":"assistant","content":)";
  if (content_.empty() && !calls_.empty()) out += "null";
  else append_json_string(out, content_);
  out += R"(,"refusal":null)";
  if (!calls_.empty()) {
    out += ',';
    append_calls(out, calls_, false);
  }
  out += '}';
  append_logprobs(out);
  append_finish(out, last_, finish_reason(last_));
  append_token_ids(out, ids_);
  out += '}';
}

void ChatChoice::add_logprobs(const llm::Event& event) {
  const size_t count = std::min(event.token_ids.size(), event.logprobs.size());
  for (size_t i = 0; i < count; ++i) {
    const llm::Logprobs& at = event.logprobs[i];
    if (!logprobs_.empty()) logprobs_ += ',';
    append_token_logprob(logprobs_, model_, event.token_ids[i], at.logprob);
    logprobs_ += R"(,"top_logprobs":[)";
    for (size_t k = 0; k < at.top.size(); ++k) {
      if (k) logprobs_ += ',';
      append_token_logprob(logprobs_, model_, at.top[k].token, at.top[k].logprob);
      logprobs_ += '}';
    }
    logprobs_ += "]}";
  }
}

void ChatChoice::append_logprobs(std::string& out) {
  out += R"(,"logprobs":)";
  if (!wants_logprobs()) {
    out += "null";
    return;
  }
  out += R"({"content":[)" + logprobs_ + R"(],"refusal":null})";
  logprobs_.clear();
}

}  // namespace tokamak::server::openai
