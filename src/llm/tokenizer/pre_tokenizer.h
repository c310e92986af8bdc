#pragma once
// The pre-tokenizers of tokenizer.json: text to the pieces that the model encodes one by one.

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "llm/tokenizer/json_node.h"

namespace tokamak::llm::tokenizer {

struct Piece {
  std::string_view text;
  bool at_start = false;  // see NormalizedText
};

// The pieces of one text, never empty ones, and the strings of those that are not parts of the text.
struct Pieces {
  std::vector<Piece> list;
  std::deque<std::string> storage;

  std::string_view keep(std::string text) { return storage.emplace_back(std::move(text)); }
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces& pieces) const = 0;
  // Whether it maps the bytes of each piece to GPT-2's alphabet. A BPE model does that itself, on cache misses only.
  virtual bool maps_bytes() const { return false; }
};

// The steps of a pre-tokenizer in order; Sequences are flattened. Throws Corrupt or Unsupported.
std::vector<std::unique_ptr<const PreTokenizer>> make_pre_tokenizers(const JsonNode& json);

}  // namespace tokamak::llm::tokenizer
