#pragma once
// A chat's messages, and the prompt that the model's template makes of them.

#include <string>
#include <vector>

#include "llm/chat_template.h"
#include "llm/tokenizer/tokenizer.h"
#include "runtime/engine.h"

namespace tokamak::cli {

class Conversation {
 public:
  // `system` may be empty. Throws Unsupported when the model brings no chat template, else as ChatTemplate::parse.
  Conversation(const Engine& engine, std::shared_ptr<const llm::Tokenizer> tokenizer, std::string system);

  void add(std::string role, std::string content);
  void pop();    // the last message
  void clear();  // all but the system message
  // Forgets the oldest user message and its answer, never the last message. False when there is nothing to forget.
  bool forget_oldest_turn();
  // Of all messages, ending where the assistant's answer begins. Throws as ChatTemplate::render.
  std::vector<int32_t> prompt_ids() const;

 private:
  std::string tokenizer_config_;
  std::shared_ptr<const llm::Tokenizer> tokenizer_;
  llm::ChatTemplate template_;
  std::vector<llm::ChatMessage> messages_;
  size_t num_system_ = 0;
};

}  // namespace tokamak::cli
