#pragma once
// One request, its text written as it comes.

#include <cstdio>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "tokamak/llm.h"

namespace tokamak::cli {

struct StreamedAnswer {
  std::string text;
  std::vector<int32_t> token_ids;
  llm::FinishReason finish_reason = llm::FinishReason::None;
  llm::Usage usage;
  double decode_s = 0;             // from the first token's arrival to the last one's
  double output_tokens_per_s = 0;  // tokens after the first arrival over decode_s; of a single arrival, all tokens over the whole time
};

// Writes each piece of text to `out` (none when null) and flushes. An interrupt cancels the request; what came until then is the answer.
// On a terminal, control characters other than newline and tab are shown as U+FFFD. Throws Error as submit does, or what ended the request.
StreamedAnswer stream_answer(llm::LlmEngine& engine, llm::Request request, FILE* out, const InterruptCounter& interrupts);

// `text` with control characters (but newline and tab) replaced by U+FFFD: a model must not drive the terminal.
std::string printable(std::string_view text);

}  // namespace tokamak::cli
