#pragma once
// A language model with KServe's face: text_input in, text_output out, once or in pieces as they come.

#include <atomic>
#include <memory>
#include <string>

#include "server/backends/tokamak/model_files.h"
#include "server/llm_model.h"
#include "tokamak/backend.h"

namespace tokamak::backends {

class LanguageModel {
 public:
  static bool is_one(const Engine& engine);
  // Parameters max_num_seqs, max_num_batched_tokens, max_context_length, kv_cache_bytes, prefix_cache, chunked_prefill, max_waiting,
  // threads. Throws as LlmModel.
  LanguageModel(const tkb_server& server, std::string name, std::shared_ptr<const Engine> engine, const Parameters& parameters);
  ~LanguageModel();

  // Inputs:
  //   text_input                BYTES [1], the prompt
  //   stream                    BOOL [1], optional: one response for each piece of text; else one with all of it
  //   sampling_parameters       BYTES [1], optional: a JSON object of what follows
  //   exclude_input_in_output   BOOL [1], optional, true by default: false puts the prompt in front (not when streaming)
  // The request's parameters may say the same, and: max_tokens, temperature, top_p, top_k, min_p, n, seed, stop (a string, or JSON of
  // several), stop_token_ids, ignore_eos, min_tokens, repetition_penalty, presence_penalty, frequency_penalty. Unknown ones are refused.
  // Output: text_output BYTES, one an answer. The final response has the parameters finish_reason, prompt_tokens and completion_tokens.
  static std::string describe();
  // Answers the request now if it is wrong, else from the engine's thread.
  void generate(const tkb_request& request);
  server::LlmModel* llm() { return &llm_; }

 private:
  struct Generation;
  void on_event(const std::shared_ptr<Generation>& generation, const llm::Event& event);

  const tkb_server& server_;
  server::LlmModel llm_;
};

}  // namespace tokamak::backends
