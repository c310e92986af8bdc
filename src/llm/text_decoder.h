#pragma once
// Token ids to text, one at a time: what LlmEngine needs of a tokenizer.

#include <functional>
#include <memory>
#include <string>

namespace tokamak::llm {

class TextDecoder {
 public:
  virtual ~TextDecoder() = default;
  virtual std::string push(int32_t token) = 0;  // whole characters that the token completes
  virtual std::string finish() = 0;             // what was still waiting for its end
};
// Makes the decoder of one answer. Null: there is no text.
using TextDecoderFactory = std::function<std::unique_ptr<TextDecoder>(bool skip_special_tokens)>;

}  // namespace tokamak::llm
