#pragma once
// The choices of /v1/chat/completions: a message, or its deltas, with tool calls read out of the text.

#include <optional>

#include "server/openai/choice_writer.h"
#include "server/openai/tool_call_parser.h"

namespace tokamak::server::openai {

class ChatChoice final : public ChoiceWriter {
 public:
  // `tools`: null when the text is the answer. `is_named`: an answer of calls still ends with "stop", as OpenAI has it for a named tool.
  ChatChoice(std::shared_ptr<const ChunkFrame> frame, const LlmModel& model, ChoiceOptions options, std::optional<ToolCallParser> tools,
             bool is_named);

  void stream(const llm::Event& event, std::string& out) override;
  void collect(const llm::Event& event) override;
  void append_choice(std::string& out, int index) override;

 private:
  // What the event adds; valid until the next call.
  void read(const llm::Event& event, AnswerDelta& delta);
  std::string_view finish_reason(const llm::Event& event) const;
  void add_logprobs(const llm::Event& event);
  void append_logprobs(std::string& out);

  std::optional<ToolCallParser> tools_;
  const bool is_named_;
  bool is_first_ = true;
  AnswerDelta delta_;    // scratch
  std::string content_;  // whole answers only, as are the next two
  std::vector<AnswerDelta::Call> calls_;
  std::vector<int32_t> ids_;
  llm::Event last_;
  std::string logprobs_;  // items of the array, divided by commas
};

}  // namespace tokamak::server::openai
