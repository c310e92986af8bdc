#pragma once
// The tokenizer in a GGUF file as tokenizer.json and tokenizer_config.json.

#include <map>
#include <string>

#include "import/hf/gguf.h"

namespace tokamak::hf {

// Empty when the file has no tokenizer. "gpt2" is byte-level BPE with the merges of the file and the split pattern that tokenizer.ggml.pre
// names; "llama" is SentencePiece BPE, whose merges follow from the scores (method: transformers' generate_merges). Throws Unsupported
// naming the model or pattern that this version does not know, Corrupt when lists disagree.
std::map<std::string, std::string> tokenizer_texts(const Gguf& file, const std::string& what);

}  // namespace tokamak::hf
