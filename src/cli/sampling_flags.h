#pragma once
// The flags that say how tokens are chosen and when an answer ends.

#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "tokamak/llm.h"

namespace tokamak::cli {

struct SamplingFlags {
  int max_tokens = 0, min_tokens = 0;
  std::optional<float> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int> top_k;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;

  void add_to(CLI::App& app);
  // What was asked over `defaults`.
  llm::SamplingParams params(llm::SamplingParams defaults) const;
};

// What generation_config.json recommends when it says do_sample, else `otherwise`. Throws Corrupt when a number is not one.
llm::SamplingParams recommended_sampling(const std::string& generation_config_json, llm::SamplingParams otherwise);

// \n, \t and \\ as a shell user writes them in a stop string; anything else stays.
std::string unescape(std::string_view text);

}  // namespace tokamak::cli
