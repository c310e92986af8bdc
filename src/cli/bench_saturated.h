#pragma once
// tokamak bench --requests: how many tokens a second an engine gives that always has work.

#include "cli/bench_llm.h"

namespace tokamak::cli {

// Submits options.requests requests, all at once or, with options.concurrency, each as soon as an earlier one has ended; every answer has
// options.new_tokens tokens. Reports tokens a second from the first submission to the last token, and where the time of the steps went.
// Throws Error.
int run_saturated_bench(const LanguageModel& model, const LlmBenchOptions& options);

}  // namespace tokamak::cli
