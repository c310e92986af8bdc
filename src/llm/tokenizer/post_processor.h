#pragma once
// The post-processors of tokenizer.json: the special tokens around one sequence.

#include <cstdint>
#include <vector>

#include "llm/tokenizer/json_node.h"

namespace tokamak::llm::tokenizer {

struct SpecialTokens {
  std::vector<int32_t> before, after;
};

// TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel (which changes offsets only) and Sequence. Throws Corrupt or
// Unsupported.
SpecialTokens read_post_processor(const JsonNode& json, int depth = 0);

}  // namespace tokamak::llm::tokenizer
