#pragma once
// The fields that completions and chat completions share, OpenAI's and those that vLLM's clients add.

#include <optional>
#include <string>

#include "server/openai/structured_output.h"

namespace tokamak::server::openai {

struct GenerationFields {
  std::string model;
  llm::SamplingParams sampling;  // all but logprobs and max_tokens, which the two endpoints write differently
  bool stream = false;
  bool include_usage = false;           // a last chunk with the usage
  bool continuous_usage_stats = false;  // usage in every chunk
  bool return_token_ids = false;
  int priority = 0;
  Constraint constraint;
};

// Throws ApiError. Leaves what only one of the endpoints knows.
GenerationFields read_generation_fields(Fields& fields);

// The most tokens of an answer to `prompt_size` tokens: `requested`, or what the context leaves. Throws ApiError (context_length_exceeded)
// when they do not fit.
int answer_limit(size_t prompt_size, std::optional<int64_t> requested, int context_length, std::string_view param);

}  // namespace tokamak::server::openai
