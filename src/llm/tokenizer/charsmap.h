#pragma once
// SentencePiece's compiled normalisation rules ("precompiled_charsmap"): a double-array trie from byte sequences to replacements.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tokamak::llm::tokenizer {

class Charsmap {
 public:
  // `blob`: u32 size of the trie in bytes, the trie's u32 units (all little-endian), then the replacements, each ended by a NUL.
  // Throws Corrupt when sizes disagree.
  explicit Charsmap(std::string_view blob);

  // The replacement of the shortest rule that begins `text`; nothing when no rule does.
  std::optional<std::string_view> find(std::string_view text) const;

 private:
  std::vector<uint32_t> units_;
  std::string replacements_;
};

// Throws Corrupt.
std::string decode_base64(std::string_view text);

}  // namespace tokamak::llm::tokenizer
