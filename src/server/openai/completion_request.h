#pragma once
// The body of /v1/completions.

#include <optional>
#include <string>
#include <vector>

#include "server/openai/generation.h"
#include "server/openai/generation_fields.h"

namespace tokamak::server::openai {

struct CompletionRequest : GenerationFields {
  // Each prompt is a text or its ids.
  struct Prompt {
    std::string text;
    std::vector<int32_t> ids;
    bool is_text = false;
  };
  std::vector<Prompt> prompts;
  int64_t max_tokens = 16;
  int best_of = 0;  // 0: n
  int logprobs = -1;
  bool echo = false;
  bool add_special_tokens = true;
};

// Throws ApiError.
CompletionRequest read_completion_request(const Json& body);

// What to do for it; `id` is the response's. Throws ApiError, and Error from tokenizer and grammar.
GenerationJob make_job(CompletionRequest request, std::shared_ptr<LlmModel> model, const std::string& id);

// A job's common part: the frame, and what is said about streams.
GenerationJob begin_job(const GenerationFields& request, std::shared_ptr<LlmModel> model, const std::string& id, std::string_view object,
                        std::string_view chunk_object);

}  // namespace tokamak::server::openai
