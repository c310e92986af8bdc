#include "server/openai/choice_writer.h"

#include <algorithm>

#include "llm/tokenizer/utf8.h"
#include "server/openai/json_text.h"

namespace tokamak::server::openai {

ChunkFrame::ChunkFrame(std::string_view id, std::string_view object, int64_t created, std::string_view model, Usage chunk_usage)
    : usage(chunk_usage) {
  head = R"({"id":)";
  append_json_string(head, id);
  head += R"(,"object":)";
  append_json_string(head, object);
  head += R"(,"created":)";
  append_integer(head, created);
  head += R"(,"model":)";
  append_json_string(head, model);
}

void ChunkFrame::open_choice(std::string& out, int index) const {
  out += "data: ";
  out += head;
  out += R"(,"choices":[{"index":)";
  append_integer(out, index);
}

void ChunkFrame::close_choice(std::string& out, int prompt_tokens, int completion_tokens, std::string_view extra) const {
  out += "}]";
  out += extra;
  if (usage == Usage::Null) {
    out += R"(,"usage":null)";
  } else if (usage == Usage::Running) {
    out += R"(,"usage":)";
    out += usage_json(prompt_tokens, completion_tokens, 0);
  }
  out += "}\n\n";
}

void ChunkFrame::append_usage_chunk(std::string& out, const std::string& usage_text) const {
  out += "data: ";
  out += head;
  out += R"(,"choices":[],"usage":)";
  out += usage_text;
  out += "}\n\n";
}

std::string usage_json(int64_t prompt_tokens, int64_t completion_tokens, int64_t cached_tokens) {
  std::string out = R"({"prompt_tokens":)";
  append_integer(out, prompt_tokens);
  out += R"(,"completion_tokens":)";
  append_integer(out, completion_tokens);
  out += R"(,"total_tokens":)";
  append_integer(out, prompt_tokens + completion_tokens);
  out += R"(,"prompt_tokens_details":{"cached_tokens":)";
  append_integer(out, cached_tokens);
  return out += "}}";
}

void ChoiceWriter::count(const llm::Event& event) {
  num_tokens_ += static_cast<int>(event.token_ids.size());
  for (const llm::Logprobs& at : event.logprobs) sum_logprobs_ += at.logprob;
}

void ChoiceWriter::append_finish(std::string& out, const llm::Event& event, std::string_view reason) const {
  out += R"(,"finish_reason":)";
  if (reason.empty()) {
    out += "null";
    return;
  }
  append_json_string(out, reason);
  out += R"(,"stop_reason":)";
  if (!event.stop_string.empty()) append_json_string(out, event.stop_string);
  else if (std::ranges::find(options_.stop_token_ids, event.stop_token_id) != options_.stop_token_ids.end())
    append_integer(out, event.stop_token_id);
  else out += "null";
}

void ChoiceWriter::append_token_ids(std::string& out, const std::vector<int32_t>& ids) const {
  if (!options_.prompt_ids) return;
  out += R"(,"token_ids":)";
  append_integers(out, ids);
}

std::string token_text(const LlmModel& model, int32_t token) { return llm::tokenizer::to_valid_utf8(model.token_bytes(token)); }

}  // namespace tokamak::server::openai
