#pragma once
// The one fact that the importer needs from a tokenizer.json.

#include <cstdint>
#include <string_view>

namespace tokamak::hf {

struct VocabularySize {
  int64_t model = 0;  // largest id in model.vocab, plus one
  int64_t added = 0;  // largest id in added_tokens, plus one
};

// One pass without building the document. Throws Corrupt when the text is not JSON.
VocabularySize vocabulary_size(std::string_view tokenizer_json);

}  // namespace tokamak::hf
