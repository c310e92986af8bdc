#pragma once
// Where the time of a language model's steps goes.

#include <cstdio>
#include <memory>
#include <string>

#include "cli/command.h"
#include "llm/step_model.h"

namespace tokamak::cli {

// Runs prefill steps (one sequence, `prompt_tokens`) and decode steps (`batch` sequences) straight through a step model with the profiler
// attached; prints and appends to `json` the time of each kind of node (operator and kernel) in a step.
void profile_llm(const std::shared_ptr<const Engine>& engine, const llm::StepModelOptions& options, int batch, int prompt_tokens, FILE* out,
                 Json& json);

// A step of `num_decoding` sequences with one new token after `past`, and `num_prompts` with `prompt_tokens` new ones after none.
struct StepMix {
  int num_decoding = 0, past = 0;
  int num_prompts = 0, prompt_tokens = 0;
};
// Milliseconds of a step's kernels by what they do, the step run as in profile_llm (kernel by kernel, so without a CUDA graph).
struct KindTimes {
  double products = 0, attention = 0, other = 0;
  double total() const { return products + attention + other; }
};
KindTimes profile_step(llm::StepModel& model, const std::string& what, const StepMix& mix, FILE* out, Json& json);

}  // namespace tokamak::cli
