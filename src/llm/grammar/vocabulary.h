#pragma once
// The bytes of every token, and a trie over them in which a walk is one pass over arrays.

#include <cstdint>
#include <string>
#include <vector>

#include "llm/grammar/grammar.h"

namespace tokamak::llm::grammar {

// Nodes in depth-first order; node 0 is the empty text.
struct Trie {
  std::vector<uint32_t> skip;         // [num_nodes] the node after this one's last descendant
  std::vector<uint32_t> token_begin;  // [num_nodes + 1] into tokens; those of all descendants follow the node's own
  std::vector<uint16_t> depth;        // [num_nodes]
  std::vector<uint8_t> byte;          // [num_nodes] the last byte of the node's text
  std::vector<uint64_t> below;        // [num_nodes] kinds (kind_of_byte) of the bytes below the node
  std::vector<int32_t> tokens;

  uint32_t size() const { return static_cast<uint32_t>(skip.size()); }
};

// One of 64 kinds of bytes; bytes that grammars tell apart most are of different kinds.
int kind_of_byte(uint8_t byte);

struct Vocabulary {
  std::vector<std::string> text;  // [token]; empty: the token is never allowed
  Trie trie;
  // Some decoders drop a space at the beginning of an answer: the tokens as they are there. Empty where that is no different.
  std::vector<std::string> first_text;
  Trie first_trie;
  std::vector<int32_t> eos_ids;
  int max_token_bytes = 0;
};

inline constexpr size_t kMaxTokenBytes = 1024;  // longer ones are never allowed

Trie make_trie(const std::vector<std::string>& texts);

}  // namespace tokamak::llm::grammar
