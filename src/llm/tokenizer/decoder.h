#pragma once
// The decoders of tokenizer.json, as streams: decoding a whole sequence and decoding token by token are the same code.

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "llm/tokenizer/json_node.h"

namespace tokamak::llm::tokenizer {

// Where a decoder puts its output: pieces of a token's text, then the token's end. Pieces are valid UTF-8.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void text(std::string_view piece) = 0;
  virtual void end_token() = 0;
};

// One decoder's state for one sequence. It gets tokens as a sink does; finish() says that there are no more.
class DecoderStage : public TokenSink {
 public:
  explicit DecoderStage(TokenSink& out) : out_(out) {}
  // Writes what it still holds and is then as new.
  virtual void finish() = 0;

 protected:
  TokenSink& out_;
};

class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual std::unique_ptr<DecoderStage> start(TokenSink& out) const = 0;
  // What a token is that this decoder takes for bytes, which need not be whole characters; nothing for another token.
  virtual std::optional<std::string> bytes(std::string_view) const { return std::nullopt; }
};

// The decoders in order; Sequences are flattened. Throws Corrupt or Unsupported.
std::vector<std::unique_ptr<const Decoder>> make_decoders(const JsonNode& json);

// A run of all decoders over one sequence of tokens. Without decoders, tokens are joined by spaces.
class DecoderStream {
 public:
  explicit DecoderStream(const std::vector<std::unique_ptr<const Decoder>>& decoders, bool joins_with_spaces);
  DecoderStream(const DecoderStream&) = delete;  // stages point at each other
  DecoderStream& operator=(const DecoderStream&) = delete;

  void push(std::string_view token);
  void finish();
  // The text since the last take().
  std::string take();

 private:
  struct Collector final : TokenSink {
    std::string collected;
    void text(std::string_view piece) override { collected += piece; }
    void end_token() override {}
  };

  Collector collector_;
  std::vector<std::unique_ptr<DecoderStage>> stages_;
  bool joins_with_spaces_, first_ = true;
};

}  // namespace tokamak::llm::tokenizer
