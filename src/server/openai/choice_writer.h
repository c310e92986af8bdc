#pragma once
// From the events of one answer to JSON: chunks of a stream, or the choice of a whole response. Written as text; one thread at a time.

#include <memory>
#include <string>
#include <vector>

#include "server/llm_model.h"

namespace tokamak::server::openai {

// What every chunk of a response begins and ends with.
struct ChunkFrame {
  enum class Usage { None, Null, Running };

  // `object`: "text_completion", "chat.completion.chunk".
  ChunkFrame(std::string_view id, std::string_view object, int64_t created, std::string_view model, Usage usage);

  // Appends `data: {"id":...,"choices":[{"index":N`; the caller goes on with `,"text":...` and ends with close_choice().
  void open_choice(std::string& out, int index) const;
  // `extra`: further members of the chunk, ",\"name\":value".
  void close_choice(std::string& out, int prompt_tokens, int completion_tokens, std::string_view extra = {}) const;
  // A chunk without choices.
  void append_usage_chunk(std::string& out, const std::string& usage_json) const;

  std::string head;  // {"id":...,"object":...,"created":...,"model":...
  Usage usage;
};

// {"prompt_tokens":...}
std::string usage_json(int64_t prompt_tokens, int64_t completion_tokens, int64_t cached_tokens);

struct ChoiceOptions {
  int index = 0;
  int prompt_tokens = 0;
  int num_top_logprobs = -1;                                         // -1: no log-probabilities
  std::vector<int32_t> stop_token_ids = {};                          // of the request, told apart from the model's own in stop_reason
  std::shared_ptr<const std::vector<int32_t>> prompt_ids = nullptr;  // with return_token_ids
  // An echoed prompt whose log-probabilities come with the first event.
  std::shared_ptr<const std::vector<int32_t>> scored_prompt = nullptr;
};

class ChoiceWriter {
 public:
  ChoiceWriter(std::shared_ptr<const ChunkFrame> frame, const LlmModel& model, ChoiceOptions options)
      : frame_(std::move(frame)), model_(model), options_(std::move(options)) {}
  virtual ~ChoiceWriter() = default;

  // Appends the chunks of an event; none when it shows nothing yet.
  virtual void stream(const llm::Event& event, std::string& out) = 0;
  // Keeps the event for append_choice().
  virtual void collect(const llm::Event& event) = 0;
  // The choice as it is in a whole response, under an index of the response.
  virtual void append_choice(std::string& out, int index) = 0;

  int num_tokens() const { return num_tokens_; }
  double mean_logprob() const { return num_tokens_ > 0 ? sum_logprobs_ / num_tokens_ : 0; }

 protected:
  void count(const llm::Event& event);
  // ,"finish_reason":...,"stop_reason":...
  void append_finish(std::string& out, const llm::Event& event, std::string_view reason) const;
  void append_token_ids(std::string& out, const std::vector<int32_t>& ids) const;  // with return_token_ids
  bool wants_logprobs() const { return options_.num_top_logprobs >= 0; }

  std::shared_ptr<const ChunkFrame> frame_;
  const LlmModel& model_;  // the response keeps it alive while there are events
  ChoiceOptions options_;
  int num_tokens_ = 0;
  double sum_logprobs_ = 0;
};

// Bytes of a token as text that JSON can carry: pieces of characters become U+FFFD.
std::string token_text(const LlmModel& model, int32_t token);

}  // namespace tokamak::server::openai
