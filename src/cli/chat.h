#pragma once
// The interactive chat of `tokamak generate`.

#include "cli/conversation.h"
#include "tokamak/llm.h"

namespace tokamak::cli {

struct ChatOptions {
  llm::SamplingParams sampling;  // max_tokens 0: what the context leaves
  bool show_speed = true;
};

// Reads lines from standard input until Ctrl-D, /exit or a second Ctrl-C; answers stream to standard output. The first Ctrl-C stops an
// answer, what came of it stays in the conversation. When the context is full the oldest turns are forgotten, with a note. An error of one
// turn is printed and the chat goes on.
void run_chat(llm::LlmEngine& engine, Conversation& conversation, const ChatOptions& options);

}  // namespace tokamak::cli
