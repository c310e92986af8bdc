#pragma once
// Where the time of a language model's steps goes.

#include <cstdio>
#include <memory>

#include "cli/command.h"
#include "llm/step_model.h"

namespace tokamak::cli {

// Runs prefill steps (one sequence, `prompt_tokens`) and decode steps (`batch` sequences) straight through a step model with the profiler
// attached; prints and appends to `json` the time of each kind of node (operator and kernel) in a step.
void profile_llm(const std::shared_ptr<const Engine>& engine, const llm::StepModelOptions& options, int batch, int prompt_tokens, FILE* out,
                 Json& json);

}  // namespace tokamak::cli
