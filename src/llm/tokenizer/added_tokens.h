#pragma once
// Tokens that are found in the text itself, before the model: special ones (BOS, roles of a chat) and words added after training.

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "llm/tokenizer/byte_trie.h"
#include "llm/tokenizer/json_node.h"
#include "llm/tokenizer/normalizer.h"
#include "llm/tokenizer/vocabulary.h"

namespace tokamak::llm::tokenizer {

struct AddedToken {
  int32_t id;
  std::string content;
  std::string pattern;  // what is looked for: the content, normalized when `normalized`
  bool single_word, lstrip, rstrip, normalized, special;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // `json`: the array added_tokens. A token that the vocabulary holds has its id there, as in `tokenizers`. Throws Corrupt.
  AddedTokens(const JsonNode& json, const Vocabulary& vocabulary, const Normalizer* normalizer);

  struct Part {
    std::string_view text;
    int32_t id;  // -1: text between tokens, not empty
  };
  // `text` cut at the tokens that are looked for before (`normalized` false) or after the normalizer. Leftmost, then longest.
  std::vector<Part> split(std::string_view text, bool normalized) const;

  const AddedToken* find(int32_t id) const;
  const AddedToken* find(std::string_view content) const;
  int32_t end() const { return end_; }  // largest id + 1

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> by_id_;
  std::unordered_map<std::string_view, size_t> by_content_;
  ByteTrie tries_[2];  // values are places in tokens_; [1]: normalized
  int32_t end_ = 0;
};

}  // namespace tokamak::llm::tokenizer
