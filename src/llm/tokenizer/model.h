#pragma once
// The models of tokenizer.json: one piece of text to ids.

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "llm/tokenizer/json_node.h"
#include "llm/tokenizer/vocabulary.h"
#include "llm/tokenizer/word_cache.h"

namespace tokamak::llm::tokenizer {

// Working memory of one encode() at a time; reused, so that a long text allocates little.
struct Scratch {
  WordCache cache;
  std::vector<int32_t> symbols;
  std::vector<int32_t> next, previous;
  std::vector<uint32_t> ranks;
  std::vector<uint64_t> heap;

  struct PathNode {
    double score;
    uint32_t begin;  // where the best token that ends here begins; kUnreached: none
    int32_t id;
  };
  static constexpr uint32_t kUnreached = UINT32_MAX;
  std::vector<PathNode> path;

  // After a very long piece it is not worth keeping.
  bool is_large() const { return path.capacity() > (1u << 20) || symbols.capacity() > (1u << 20); }
};

class Model {
 public:
  explicit Model(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  virtual ~Model() = default;

  const Vocabulary& vocabulary() const { return vocabulary_; }

  // Whether encode() can map the piece's bytes to GPT-2's alphabet itself (maps_bytes).
  virtual bool can_map_bytes() const { return false; }

  // Appends the ids of `piece`, which is valid UTF-8 and not empty. Throws InvalidArgument when the piece needs an unknown token
  // that the vocabulary lacks.
  virtual void encode(std::string_view piece, bool map_bytes, Scratch& scratch, std::vector<int32_t>& ids) const = 0;

 private:
  Vocabulary vocabulary_;
};

// Throws Corrupt or Unsupported.
std::unique_ptr<const Model> make_model(const JsonNode& json);
std::unique_ptr<const Model> make_bpe(const JsonNode& json);
std::unique_ptr<const Model> make_unigram(const JsonNode& json);
std::unique_ptr<const Model> make_word_piece(const JsonNode& json);
std::unique_ptr<const Model> make_word_level(const JsonNode& json);

// Ids of "<0x00>" ... "<0xFF>"; -1 where the vocabulary has none.
std::array<int32_t, 256> byte_token_ids(const Vocabulary& vocabulary);

inline constexpr size_t kMaxTrieKeyBytes = 1024;  // bounds the work of a trie walk; real tokens have tens of bytes

}  // namespace tokamak::llm::tokenizer
