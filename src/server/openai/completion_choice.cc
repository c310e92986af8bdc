#include "server/openai/completion_choice.h"

#include <algorithm>

#include "llm/tokenizer/utf8.h"
#include "server/openai/json_text.h"

namespace tokamak::server::openai {

CompletionChoice::CompletionChoice(std::shared_ptr<const ChunkFrame> frame, const LlmModel& model, ChoiceOptions options, std::string echo)
    : ChoiceWriter(std::move(frame), model, std::move(options)), text_(std::move(echo)) {
  if (!options_.scored_prompt) offset_ = llm::tokenizer::count_characters(text_);
}

void CompletionChoice::stream(const llm::Event& event, std::string& out) {
  count(event);
  if (wants_logprobs()) add_logprobs(event);
  const bool ends = event.finish_reason != llm::FinishReason::None;
  const bool shows = !event.text.empty() || !text_.empty() || ends || (options_.prompt_ids && !event.token_ids.empty()) || !tokens_.empty();
  if (!shows) return;
  frame_->open_choice(out, options_.index);
  out += R"(,"text":)";
  if (text_.empty()) {
    append_json_string(out, event.text);
  } else {
    append_json_string(out, text_ + event.text);
    text_.clear();
  }
  append_logprobs(out);
  append_finish(out, event, llm::to_string(event.finish_reason));
  append_token_ids(out, event.token_ids);
  if (options_.prompt_ids && is_first_) {
    out += R"(,"prompt_token_ids":)";
    append_integers(out, *options_.prompt_ids);
  }
  is_first_ = false;
  frame_->close_choice(out, options_.prompt_tokens, num_tokens_);
}

void CompletionChoice::collect(const llm::Event& event) {
  count(event);
  if (wants_logprobs()) add_logprobs(event);
  text_ += event.text;
  if (options_.prompt_ids) ids_.insert(ids_.end(), event.token_ids.begin(), event.token_ids.end());
  if (event.finish_reason != llm::FinishReason::None) last_ = event;
}

void CompletionChoice::append_choice(std::string& out, int index) {
  out += R"({"index":)";
  append_integer(out, index);
  out += R"(,"text":)";
  append_json_string(out, text_);
  append_logprobs(out);
  append_finish(out, last_, llm::to_string(last_.finish_reason));
  append_token_ids(out, ids_);
  if (options_.prompt_ids) {
    out += R"(,"prompt_token_ids":)";
    append_integers(out, *options_.prompt_ids);
  }
  out += '}';
}

void CompletionChoice::add_logprobs(const llm::Event& event) {
  if (const auto prompt = std::exchange(options_.scored_prompt, nullptr)) {
    // The first token of a prompt has nothing before it that would give it a probability.
    for (size_t i = 0; i < prompt->size(); ++i) add_token((*prompt)[i], i == 0 ? nullptr : &event.prompt_logprobs.at(i - 1));
  }
  const size_t count = std::min(event.token_ids.size(), event.logprobs.size());
  for (size_t i = 0; i < count; ++i) add_token(event.token_ids[i], &event.logprobs[i]);
}

void CompletionChoice::add_token(int32_t token, const llm::Logprobs* at) {
  if (!tokens_.empty())
    for (std::string* items : {&tokens_, &token_logprobs_, &top_logprobs_, &text_offsets_}) *items += ',';
  const std::string text = token_text(model_, token);
  append_json_string(tokens_, text);
  append_integer(text_offsets_, static_cast<int64_t>(offset_));
  offset_ += llm::tokenizer::count_characters(text);
  if (at == nullptr) token_logprobs_ += "null";
  else append_logprob(token_logprobs_, at->logprob);
  if (at == nullptr || options_.num_top_logprobs == 0) {
    top_logprobs_ += "null";
    return;
  }
  // By text: of tokens that look the same, the likeliest. The chosen token is always there.
  std::vector<std::pair<std::string, float>> items;
  const auto add = [&](std::string key, float value) {
    if (std::ranges::none_of(items, [&](const auto& item) { return item.first == key; })) items.emplace_back(std::move(key), value);
  };
  for (const llm::TokenLogprob& top : at->top) add(token_text(model_, top.token), top.logprob);
  add(text, at->logprob);
  top_logprobs_ += '{';
  for (const auto& [key, value] : items) {
    if (top_logprobs_.back() != '{') top_logprobs_ += ',';
    append_json_string(top_logprobs_, key);
    top_logprobs_ += ':';
    append_logprob(top_logprobs_, value);
  }
  top_logprobs_ += '}';
}

void CompletionChoice::append_logprobs(std::string& out) {
  out += R"(,"logprobs":)";
  if (!wants_logprobs()) {
    out += "null";
    return;
  }
  out += R"({"tokens":[)" + tokens_ + R"(],"token_logprobs":[)" + token_logprobs_ + R"(],"top_logprobs":)";
  out += options_.num_top_logprobs == 0 ? "null" : "[" + top_logprobs_ + "]";
  out += R"(,"text_offset":[)" + text_offsets_ + "]}";
  for (std::string* items : {&tokens_, &token_logprobs_, &top_logprobs_, &text_offsets_}) items->clear();
}

}  // namespace tokamak::server::openai
