#pragma once
// The choices of /v1/completions: {"text", "index", "logprobs", "finish_reason"}.

#include "server/openai/choice_writer.h"

namespace tokamak::server::openai {

class CompletionChoice final : public ChoiceWriter {
 public:
  // `echo`: the prompt's text, which comes before the answer's.
  CompletionChoice(std::shared_ptr<const ChunkFrame> frame, const LlmModel& model, ChoiceOptions options, std::string echo);

  void stream(const llm::Event& event, std::string& out) override;
  void collect(const llm::Event& event) override;
  void append_choice(std::string& out, int index) override;

 private:
  void add_logprobs(const llm::Event& event);
  void add_token(int32_t token, const llm::Logprobs* at);  // null: it has none
  void append_logprobs(std::string& out);

  std::string text_;                                                   // whole: all so far; streamed: what the next chunk begins with
  std::string tokens_, token_logprobs_, top_logprobs_, text_offsets_;  // items of the arrays, divided by commas
  size_t offset_ = 0;                                                  // characters of the tokens so far
  std::vector<int32_t> ids_;
  llm::Event last_;
  bool is_first_ = true;
};

}  // namespace tokamak::server::openai
