#pragma once
// A language model that is served: the engine, its text side, and its name. OpenAI's endpoints and the KServe `generate` endpoints share
// it.

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "llm/chat_template.h"
#include "llm/grammar/grammar.h"
#include "llm/tokenizer/tokenizer.h"
#include "tokamak/llm.h"

namespace tokamak::server {

class LlmModel {
 public:
  // Throws as LlmEngine; Unsupported when the model brings no tokenizer. `engine` must be a language model's.
  LlmModel(std::string name, std::shared_ptr<const Engine> engine, llm::LlmOptions options);
  // Over an engine made elsewhere, which must have a tokenizer; the texts are those of the checkpoint, "" when it has none.
  LlmModel(std::string name, std::unique_ptr<llm::LlmEngine> engine, std::string tokenizer_config, std::string chat_template = {});

  const std::string& name() const { return name_; }
  int64_t created() const { return created_; }  // Unix time, seconds
  llm::LlmEngine& engine() { return *engine_; }
  const llm::Tokenizer& tokenizer() const { return *tokenizer_; }
  int context_length() const { return engine_->context_length(); }
  // Throws Unsupported when the model has no chat template or one that cannot be read (a model is served without it), InvalidArgument when
  // the template refuses the messages.
  std::string render_chat(const std::vector<llm::ChatMessage>& messages, const llm::ChatOptions& options) const;
  // The same, tokenized as the checkpoint's own processor does (special tokens of the template are not added a second time).
  std::vector<int32_t> chat_prompt_ids(const std::vector<llm::ChatMessage>& messages, const llm::ChatOptions& options) const;
  bool has_chat_template() const { return !template_text_.empty(); }
  // The template's text, as used when there are no tools or when there are.
  const std::string& chat_template_text(bool has_tools = false) const { return has_tools ? tool_template_text_ : template_text_; }
  // The bytes that a token stands for inside a text ("\xC3", " the"), which one token's decoded text cannot show. Special tokens are their
  // names. The table is made at the first call. Thread-safe.
  const std::string& token_bytes(int32_t token) const;
  // The mask of a grammar; the latest kMaxMasks are kept under `key`, others are compiled first. Throws as `compile`. Thread-safe.
  std::shared_ptr<const llm::TokenMask> token_mask(const std::string& key,
                                                   const std::function<std::shared_ptr<const llm::Grammar>()>& compile);
  static constexpr size_t kMaxMasks = 64;

 private:
  void read_chat_template(const std::string& chat_template);

  std::string name_;
  int64_t created_;
  std::unique_ptr<llm::LlmEngine> engine_;
  std::shared_ptr<const llm::Tokenizer> tokenizer_;
  std::string tokenizer_config_, template_text_, tool_template_text_, template_error_;
  std::optional<llm::ChatTemplate> template_, tool_template_;
  mutable std::once_flag token_bytes_made_;
  mutable std::vector<std::string> token_bytes_;

  using Mask = std::pair<std::string, std::shared_ptr<const llm::TokenMask>>;  // under its key
  std::once_flag token_trie_made_;
  std::shared_ptr<const llm::TokenTrie> token_trie_;
  std::mutex masks_mutex_;
  std::list<Mask> masks_;  // latest use first
  std::unordered_map<std::string_view, std::list<Mask>::iterator> masks_by_key_;
};

}  // namespace tokamak::server
