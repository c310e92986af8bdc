#pragma once
// Text to token ids and back, from a Hugging Face `tokenizers` file (tokenizer.json).
//
// Goals: the ids and the text that the `tokenizers` library 0.23 gives, for every normalizer, pre-tokenizer, model, post-processor and
// decoder that public checkpoints use; several MB/s on one thread; any bytes and any file without a crash. Non-goals: training, offsets,
// truncation and padding, pairs of sequences, BPE dropout.
//
//   text → added tokens → normalizer → pre-tokenizer → model → post-processor → ids → decoder → text

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tokamak::llm {

namespace tokenizer {
class DecoderStream;
struct Parts;
}  // namespace tokenizer

// Immutable after from_json(); every const member may be called from many threads at once.
class Tokenizer {
 public:
  // Reads the text of tokenizer.json. Throws Corrupt (not JSON, a field of the wrong kind, ids that cannot be) or Unsupported (a component
  // of an unknown type; the message names it).
  static std::shared_ptr<const Tokenizer> from_json(std::string_view tokenizer_json);
  ~Tokenizer();

  // Token ids of `text`. Added tokens that occur in the text become their ids, special or not, as in `tokenizers`; `add_special_tokens`
  // adds what the post-processor prescribes around the text (BOS, [CLS], ...). Bytes that are not UTF-8 are read as U+FFFD, one per maximal
  // invalid part. Throws InvalidArgument when a character has no token and the model no unknown token, ResourceExhausted when a pattern of
  // the file exceeds its match limit on this text.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = true) const;

  // Text of `ids`; always valid UTF-8. Ids without a token are skipped, as are special tokens when `skip_special_tokens`.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = true) const;

  // Largest id + 1: what an embedding table must at least hold.
  int vocab_size() const;
  std::optional<int32_t> token_to_id(std::string_view token) const;
  // The token as the vocabulary spells it ("Ġthe", "▁the", "<0x0A>"); empty when there is none.
  std::string token_text(int32_t id) const;
  bool is_special(int32_t id) const;
  // What `id` adds to a text: as its first token when `is_first`, else after others. Not always whole characters. Empty for ids without a
  // token, and where a decoder lets a token change what came before it.
  std::string token_bytes(int32_t id, bool is_first) const;

 private:
  friend class StreamDecoder;
  explicit Tokenizer(std::unique_ptr<tokenizer::Parts> parts);
  std::unique_ptr<tokenizer::Parts> parts_;
};

// Decodes one id at a time. The pieces, concatenated, equal decode() of all ids, and each is valid UTF-8 by itself: bytes of an unfinished
// character wait for the rest. A run of byte tokens ("<0xE4>") waits for its end, because one bad byte makes the whole run U+FFFD.
// One thread at a time; keeps the tokenizer alive.
class StreamDecoder {
 public:
  explicit StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens = true);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  // The text that `id` completes; may be empty.
  std::string push(int32_t id);
  // What was still waiting; bytes that never became a character are U+FFFD. The decoder is then as new.
  std::string finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_tokens_;
  std::unique_ptr<tokenizer::DecoderStream> stream_;
};

}  // namespace tokamak::llm
