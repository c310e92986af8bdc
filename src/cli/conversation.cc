#include "cli/conversation.h"

#include "cli/language_model.h"

namespace tokamak::cli {

namespace {

llm::ChatTemplate template_of(const Engine& engine) {
  const std::string text = llm::find_chat_template(metadata(engine, "tokenizer_config.json"), metadata(engine, "chat_template.jinja"));
  if (text.empty())
    fail(ErrorCode::Unsupported,
         "'{}' has no chat template (tokenizer_config.json or chat_template.jinja): give a prompt with -p and no --chat",
         metadata(engine, "model_name"));
  return llm::ChatTemplate::parse(text);
}

}  // namespace

Conversation::Conversation(const Engine& engine, std::shared_ptr<const llm::Tokenizer> tokenizer, std::string system)
    : tokenizer_config_(metadata(engine, "tokenizer_config.json")), tokenizer_(std::move(tokenizer)), template_(template_of(engine)) {
  if (system.empty()) return;
  add("system", std::move(system));
  num_system_ = 1;
}

void Conversation::add(std::string role, std::string content) { messages_.push_back({std::move(role), std::move(content)}); }

void Conversation::pop() { messages_.pop_back(); }

void Conversation::clear() { messages_.resize(num_system_); }

bool Conversation::forget_oldest_turn() {
  if (messages_.size() < num_system_ + 3) return false;
  messages_.erase(messages_.begin() + static_cast<ptrdiff_t>(num_system_), messages_.begin() + static_cast<ptrdiff_t>(num_system_) + 2);
  return true;
}

std::vector<int32_t> Conversation::prompt_ids() const {
  // The template writes the special tokens itself.
  return tokenizer_->encode(template_.render(llm::make_chat_context(messages_, tokenizer_config_)), false);
}

}  // namespace tokamak::cli
