#include "llm/tokenizer/decoder.h"

#include <algorithm>
#include <deque>
#include <optional>

#include "llm/tokenizer/byte_level.h"
#include "llm/tokenizer/replace.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::tokenizer {

namespace {

using Decoders = std::vector<std::unique_ptr<const Decoder>>;

// A decoder whose state is a Stage, made from the decoder's settings.
template <class Stage, class Settings>
class DecoderOf final : public Decoder {
 public:
  explicit DecoderOf(Settings settings) : settings_(std::move(settings)) {}
  std::unique_ptr<DecoderStage> start(TokenSink& out) const override { return std::make_unique<Stage>(settings_, out); }
  std::optional<std::string> bytes(std::string_view token) const override {
    if constexpr (requires { Stage::bytes_of(token); }) return Stage::bytes_of(token);
    else return std::nullopt;
  }

 private:
  Settings settings_;
};

struct NoSettings {};

// A decoder that looks at whole tokens: waits for the end of each, then calls decode().
class WholeTokens : public DecoderStage {
 public:
  using DecoderStage::DecoderStage;
  void text(std::string_view piece) override { token_ += piece; }
  void end_token() override {
    decode(token_, index_++);
    token_.clear();
  }
  void finish() override { index_ = 0; }

 protected:
  virtual void decode(const std::string& token, size_t index) = 0;
  void emit(std::string_view token) {
    out_.text(token);
    out_.end_token();
  }

 private:
  std::string token_;
  size_t index_ = 0;
};

// Tokens in GPT-2's alphabet are bytes, others (added tokens) their own; all of it is one text.
class ByteLevelStage final : public DecoderStage {
 public:
  static std::optional<std::string> bytes_of(std::string_view token) {
    std::string bytes;
    for (size_t at = 0; at < token.size();) {
      const auto byte = character_byte(next_code(token, at));
      if (!byte) return std::string(token);
      bytes += static_cast<char>(*byte);
    }
    return bytes;
  }

  ByteLevelStage(const NoSettings&, TokenSink& out) : DecoderStage(out) {}
  void text(std::string_view piece) override { token_ += piece; }
  void end_token() override {
    bytes_ += *bytes_of(token_);
    token_.clear();
    write(false);
  }
  void finish() override {
    write(true);
    out_.end_token();
  }

 private:
  // All but a character that may still become whole.
  void write(bool all) {
    std::string text;
    size_t at = 0;
    while (at < bytes_.size()) {
      const Utf8Scan scan = scan_utf8(bytes_, at);
      if (scan.incomplete && !all) break;
      text += scan.valid ? std::string_view(bytes_).substr(at, scan.length) : kReplacementCharacter;
      at += scan.length;
    }
    bytes_.erase(0, at);
    if (!text.empty()) out_.text(text);
  }

  std::string token_, bytes_;
};

// Runs of tokens like "<0x0A>" are bytes: one token if they are UTF-8 together, else U+FFFD for each.
class ByteFallbackStage final : public WholeTokens {
 public:
  static std::optional<std::string> bytes_of(std::string_view token) {
    const auto byte = byte_of(token);
    return byte ? std::optional(std::string(1, *byte)) : std::nullopt;
  }

  ByteFallbackStage(const NoSettings&, TokenSink& out) : WholeTokens(out) {}
  void finish() override {
    end_run();
    WholeTokens::finish();
  }

 private:
  static std::optional<char> byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
    const auto digit = [](char c) {
      return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    };
    const int high = token[3] == '+' ? 0 : digit(token[3]), low = digit(token[4]);  // Rust reads "+A" as a number
    if (high < 0 || low < 0) return std::nullopt;
    return static_cast<char>(static_cast<unsigned char>(high * 16 + low));
  }

  void decode(const std::string& token, size_t) override {
    if (const auto byte = byte_of(token)) {
      run_ += *byte;
    } else {
      end_run();
      emit(token);
    }
  }

  void end_run() {
    if (run_.empty()) return;
    if (is_valid_utf8(run_)) {
      emit(run_);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) emit(kReplacementCharacter);
    }
    run_.clear();
  }

  std::string run_;
};

// All tokens are one.
class FuseStage final : public DecoderStage {
 public:
  FuseStage(const NoSettings&, TokenSink& out) : DecoderStage(out) {}
  void text(std::string_view piece) override { out_.text(piece); }
  void end_token() override {}
  void finish() override { out_.end_token(); }
};

struct StripSettings {
  std::string character;
  size_t start, stop;  // at most so many of the character go at either end of each token
};

class StripStage final : public DecoderStage {
 public:
  StripStage(StripSettings settings, TokenSink& out) : DecoderStage(out), settings_(std::move(settings)), left_(settings_.start) {}

  void text(std::string_view piece) override {
    while (left_ > 0 && piece.starts_with(settings_.character)) {
      piece.remove_prefix(settings_.character.size());
      --left_;
    }
    if (piece.empty()) return;
    left_ = 0;
    held_ += piece;
    // The last `stop` characters wait: they may be the token's end.
    size_t tail = held_.size(), count = 0;
    while (count < settings_.stop && std::string_view(held_).substr(0, tail).ends_with(settings_.character)) {
      tail -= settings_.character.size();
      ++count;
    }
    out_.text(std::string_view(held_).substr(0, tail));
    held_.erase(0, tail);
  }
  void end_token() override {
    held_.clear();
    left_ = settings_.start;
    out_.end_token();
  }
  void finish() override {}

 private:
  StripSettings settings_;
  size_t left_;
  std::string held_;  // only the stripped character, at most `stop` times
};

struct MetaspaceSettings {
  std::string replacement;
  bool drops_first;
};

class MetaspaceStage final : public WholeTokens {
 public:
  MetaspaceStage(MetaspaceSettings settings, TokenSink& out) : WholeTokens(out), settings_(std::move(settings)) {}

 private:
  void decode(const std::string& token, size_t index) override {
    std::string text;
    for (size_t at = 0; at < token.size();) {
      const std::string_view character = std::string_view(token).substr(at, utf8_length(token[at]));
      at += character.size();
      if (character != settings_.replacement) {
        text += character;
      } else if (index > 0 || !settings_.drops_first) {
        text += ' ';
      }
    }
    emit(text);
  }

  MetaspaceSettings settings_;
};

struct WordPieceSettings {
  std::string prefix;
  bool cleanup;
};

class WordPieceStage final : public WholeTokens {
 public:
  WordPieceStage(WordPieceSettings settings, TokenSink& out) : WholeTokens(out), settings_(std::move(settings)) {}

 private:
  static void replace_all(std::string& text, std::string_view from, std::string_view to) {
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
  }

  void decode(const std::string& token, size_t index) override {
    std::string text = token;
    if (index > 0) {
      if (token.starts_with(settings_.prefix)) {
        text.erase(0, settings_.prefix.size());
      } else {
        text.insert(0, " ");
      }
    }
    if (settings_.cleanup) {
      // The list of `tokenizers`, in its order; each works on one token.
      static constexpr std::pair<std::string_view, std::string_view> kCleanup[] = {
          {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
          {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
      for (const auto& [from, to] : kCleanup) replace_all(text, from, to);
    }
    emit(text);
  }

  WordPieceSettings settings_;
};

// The suffix of each token is a space, except at the very end: one token always waits.
class BpeStage final : public WholeTokens {
 public:
  BpeStage(std::string suffix, TokenSink& out) : WholeTokens(out), suffix_(std::move(suffix)) {}
  void finish() override {
    if (waiting_) write(*waiting_, "");
    waiting_.reset();
    WholeTokens::finish();
  }

 private:
  void decode(const std::string& token, size_t) override {
    if (waiting_) write(*waiting_, " ");
    waiting_ = token;
  }

  void write(const std::string& token, std::string_view replacement) {
    std::string text;
    size_t done = 0;
    for (size_t at; !suffix_.empty() && (at = token.find(suffix_, done)) != std::string::npos; done = at + suffix_.size()) {
      text.append(token, done, at - done);
      text += replacement;
    }
    text.append(token, done);
    emit(text);
  }

  std::string suffix_;
  std::optional<std::string> waiting_;
};

class ReplaceStage final : public WholeTokens {
 public:
  ReplaceStage(std::shared_ptr<const Replacement> replacement, TokenSink& out) : WholeTokens(out), replacement_(std::move(replacement)) {}

 private:
  void decode(const std::string& token, size_t) override { emit(replacement_->apply(token)); }

  std::shared_ptr<const Replacement> replacement_;
};

template <class Stage, class Settings>
void add(Decoders& decoders, Settings settings) {
  decoders.push_back(std::make_unique<DecoderOf<Stage, Settings>>(std::move(settings)));
}

std::string read_character(const JsonNode& json) {
  const std::string& text = json.string();
  if (text.empty() || utf8_length(text[0]) != text.size()) json.corrupt("one character");
  return text;
}

void read_decoders(const JsonNode& json, int depth, Decoders& decoders) {
  if (depth > kMaxComponentDepth) json.unsupported("decoders are nested too deeply");
  const std::string& type = json.at("type").string();
  if (type == "Sequence") {
    for (const JsonNode& part : json.at("decoders").array()) read_decoders(part, depth + 1, decoders);
  } else if (type == "ByteLevel") {
    add<ByteLevelStage>(decoders, NoSettings());
  } else if (type == "ByteFallback") {
    add<ByteFallbackStage>(decoders, NoSettings());
  } else if (type == "Fuse") {
    add<FuseStage>(decoders, NoSettings());
  } else if (type == "Strip") {
    const auto count = [&](const char* key) { return static_cast<size_t>(json.at(key).integer(0, INT32_MAX)); };
    add<StripStage>(decoders, StripSettings{read_character(json.at("content")), count("start"), count("stop")});
  } else if (type == "Replace") {
    add<ReplaceStage>(decoders, std::make_shared<const Replacement>(json));
  } else if (type == "Metaspace") {
    const bool never = json.string_or("prepend_scheme", "always") == "never" || !json.boolean_or("add_prefix_space", true);
    add<MetaspaceStage>(decoders, MetaspaceSettings{read_character(json.at("replacement")), !never});
  } else if (type == "WordPiece") {
    add<WordPieceStage>(decoders, WordPieceSettings{json.at("prefix").string(), json.at("cleanup").boolean()});
  } else if (type == "BPEDecoder") {
    add<BpeStage>(decoders, json.at("suffix").string());
  } else {
    json.unsupported("decoder '" + type +
                     "' is unknown (known: ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, WordPiece, BPEDecoder, Sequence)");
  }
}

}  // namespace

std::vector<std::unique_ptr<const Decoder>> make_decoders(const JsonNode& json) {
  Decoders decoders;
  read_decoders(json, 0, decoders);
  return decoders;
}

DecoderStream::DecoderStream(const std::vector<std::unique_ptr<const Decoder>>& decoders, bool joins_with_spaces)
    : joins_with_spaces_(joins_with_spaces) {
  TokenSink* out = &collector_;
  for (auto it = decoders.rbegin(); it != decoders.rend(); ++it) {
    stages_.push_back((*it)->start(*out));
    out = stages_.back().get();
  }
  std::reverse(stages_.begin(), stages_.end());
}

void DecoderStream::push(std::string_view token) {
  TokenSink& first = stages_.empty() ? static_cast<TokenSink&>(collector_) : *stages_.front();
  if (joins_with_spaces_ && !first_) first.text(" ");
  first_ = false;
  first.text(token);
  first.end_token();
}

void DecoderStream::finish() {
  for (const auto& stage : stages_) stage->finish();
  first_ = true;
}

std::string DecoderStream::take() { return std::exchange(collector_.collected, {}); }

}  // namespace tokamak::llm::tokenizer
