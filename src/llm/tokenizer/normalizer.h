#pragma once
// The normalizers of tokenizer.json: valid UTF-8 to valid UTF-8.

#include <memory>
#include <string>
#include <string_view>

#include "llm/tokenizer/json_node.h"

namespace tokamak::llm::tokenizer {

// A part of the text on its way to the model.
struct NormalizedText {
  std::string text;
  bool at_start = true;  // its first character is the first of the input (Metaspace's prepend_scheme "first" asks)
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(NormalizedText& t) const = 0;
};

// Throws Corrupt or Unsupported.
std::unique_ptr<const Normalizer> make_normalizer(const JsonNode& json, int depth = 0);

}  // namespace tokamak::llm::tokenizer
