#pragma once
// tokamak bench for language models: many users at once through LlmEngine.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cli/command.h"
#include "cli/language_model.h"
#include "llm/step_model.h"

namespace tokamak::cli {

struct LlmBenchOptions {
  std::vector<int> batches = {1};
  int prompt_tokens = 512, new_tokens = 128;  // of each request
  int repeat = 1;                             // measured runs a batch; medians are reported
  int max_num_batched_tokens = 0;             // new tokens in a step; 0: 512, when saturated on a GPU 8192
  std::vector<std::pair<int, int>> loads;     // of requests: prompt and new tokens, a run each; empty: prompt_tokens and new_tokens
  int requests = 0;                           // > 0: saturated (bench_saturated.h); batches, repeat and bandwidth do not count then
  int concurrency = 0;                        // of those at once; 0: all
  int max_num_seqs = 0;                       // of them in a step; 0: all, up to 1024 on a GPU, 64 on a CPU
  bool synchronous = false;                   // no step before the tokens of the one before are known
  int threads = 0;
  uint64_t seed = 1;
  bool bandwidth = false, profile_layers = false;
  std::string json_file;
};

// Planned and used bytes of a GPU.
Json memory_json(const llm::StepMemory& memory);

// Prompts are random tokens, different for every request; answers ignore EOS. Throws Error.
int run_llm_bench(const LanguageModel& model, const LlmBenchOptions& options);

}  // namespace tokamak::cli
