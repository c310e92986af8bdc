#include "server/llm_model.h"

#include <charconv>
#include <chrono>

#include "base/error.h"
#include "llm/tokenizer/byte_level.h"
#include "llm/tokenizer/utf8.h"
#include "runtime/engine.h"
#include "server/held_wakes.h"

namespace tokamak::server {
namespace {

std::string metadata(const Engine& engine, const std::string& key) {
  const auto& all = engine.graph().metadata;
  const auto found = all.find(key);
  return found == all.end() ? "" : found->second;
}

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// "<0xE4>"; nothing for any other spelling.
std::optional<char> byte_token(std::string_view spelling) {
  if (spelling.size() != 6 || !spelling.starts_with("<0x") || spelling.back() != '>') return std::nullopt;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(spelling.data() + 3, spelling.data() + 5, value, 16);
  if (error != std::errc() || end != spelling.data() + 5) return std::nullopt;
  return static_cast<char>(value);
}

// In the printable alphabet of byte-level vocabularies; nothing when a character is outside it (added tokens are plain text).
std::optional<std::string> from_byte_characters(std::string_view spelling) {
  std::string bytes;
  for (size_t i = 0; i < spelling.size();) {
    const auto byte = llm::tokenizer::character_byte(llm::tokenizer::next_code(spelling, i));
    if (!byte) return std::nullopt;
    bytes += static_cast<char>(*byte);
  }
  return bytes;
}

std::vector<std::string> make_token_bytes(const llm::Tokenizer& tokenizer) {
  const auto decode = [&](std::initializer_list<int32_t> ids) { return tokenizer.decode(std::vector<int32_t>(ids), false); };
  const auto space = tokenizer.token_to_id("\u0120");  // "Ġ"
  const bool is_byte_level = space && decode({*space}) == " ";
  const bool has_byte_tokens = tokenizer.token_to_id("<0x0A>").has_value();
  // Decoders drop the space before a first token: each is looked at behind another.
  const auto anchor = tokenizer.token_to_id("a");
  const std::string before = anchor ? decode({*anchor}) : "";

  std::vector<std::string> table(tokenizer.vocab_size());
  for (int32_t id = 0; id < std::ssize(table); ++id) {
    const std::string spelling = tokenizer.token_text(id);
    std::string& bytes = table[id];
    if (tokenizer.is_special(id)) {
      bytes = spelling;
    } else if (is_byte_level) {
      bytes = from_byte_characters(spelling).value_or(spelling);
    } else if (const auto byte = has_byte_tokens ? byte_token(spelling) : std::nullopt) {
      bytes = std::string(1, *byte);
    } else {
      const std::string text = anchor ? decode({*anchor, id}) : decode({id});
      bytes = text.starts_with(before) ? text.substr(before.size()) : decode({id});
    }
  }
  return table;
}

llm::LlmOptions sending_together(llm::LlmOptions options) {
  options.around_events = [](const std::function<void()>& deliver) {
    const HeldWakes held;
    deliver();
  };
  return options;
}

}  // namespace

LlmModel::LlmModel(std::string name, std::shared_ptr<const Engine> engine, llm::LlmOptions options)
    : LlmModel(std::move(name), std::make_unique<llm::LlmEngine>(engine, sending_together(std::move(options))),
               metadata(*engine, "tokenizer_config.json"), metadata(*engine, "chat_template.jinja")) {}

LlmModel::LlmModel(std::string name, std::unique_ptr<llm::LlmEngine> engine, std::string tokenizer_config, std::string chat_template)
    : name_(std::move(name)),
      created_(unix_seconds()),
      engine_(std::move(engine)),
      tokenizer_(engine_->tokenizer()),
      tokenizer_config_(std::move(tokenizer_config)) {
  if (!tokenizer_)
    fail(ErrorCode::Unsupported, "the language model '{}' has no tokenizer: the checkpoint it was built from needs a tokenizer.json",
         name_);
  read_chat_template(chat_template);
}

void LlmModel::read_chat_template(const std::string& chat_template) {
  try {
    template_text_ = llm::find_chat_template(tokenizer_config_, chat_template, false);
    tool_template_text_ = llm::find_chat_template(tokenizer_config_, chat_template, true);
    if (template_text_.empty()) return;
    template_ = llm::ChatTemplate::parse(template_text_);
    tool_template_ = tool_template_text_ == template_text_ ? template_ : llm::ChatTemplate::parse(tool_template_text_);
  } catch (const Error& error) {
    template_error_ = error.what();
  }
}

std::string LlmModel::render_chat(const std::vector<llm::ChatMessage>& messages, const llm::ChatOptions& options) const {
  if (!template_error_.empty()) fail(ErrorCode::Unsupported, "the chat template of '{}' cannot be used: {}", name_, template_error_);
  if (!template_)
    fail(ErrorCode::Unsupported, "the model '{}' has no chat template (tokenizer_config.json or chat_template.jinja): use /v1/completions",
         name_);
  const bool has_tools = options.tools.is_array() && !options.tools.empty();
  return (has_tools ? *tool_template_ : *template_).render(llm::make_chat_context(messages, tokenizer_config_, options));
}

std::vector<int32_t> LlmModel::chat_prompt_ids(const std::vector<llm::ChatMessage>& messages, const llm::ChatOptions& options) const {
  return tokenizer_->encode(render_chat(messages, options), false);
}

const std::string& LlmModel::token_bytes(int32_t token) const {
  static const std::string kNone;
  std::call_once(token_bytes_made_, [this] { token_bytes_ = make_token_bytes(*tokenizer_); });
  return token >= 0 && token < std::ssize(token_bytes_) ? token_bytes_[token] : kNone;
}

std::shared_ptr<const llm::TokenMask> LlmModel::token_mask(const std::string& key,
                                                           const std::function<std::shared_ptr<const llm::Grammar>()>& compile) {
  {
    const std::lock_guard lock(masks_mutex_);
    if (const auto found = masks_by_key_.find(key); found != masks_by_key_.end()) {
      masks_.splice(masks_.begin(), masks_, found->second);
      return found->second->second;
    }
  }
  // Unlocked: a large grammar delays nobody else. Two that want the same one at once both compile it.
  std::call_once(token_trie_made_, [this] { token_trie_ = llm::TokenTrie::from_tokenizer(*tokenizer_, engine_->config().eos_token_ids); });
  auto mask = llm::make_token_mask(compile(), token_trie_);
  const std::lock_guard lock(masks_mutex_);
  if (masks_by_key_.contains(key)) return mask;
  masks_.emplace_front(key, mask);
  masks_by_key_.emplace(masks_.front().first, masks_.begin());
  if (masks_.size() > kMaxMasks) {
    masks_by_key_.erase(masks_.back().first);
    masks_.pop_back();
  }
  return mask;
}

}  // namespace tokamak::server
