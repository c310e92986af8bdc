#include "llm/tokenizer/normalizer.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "llm/tokenizer/byte_level.h"
#include "llm/tokenizer/charsmap.h"
#include "llm/tokenizer/regex.h"
#include "llm/tokenizer/replace.h"
#include "llm/tokenizer/unicode.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::tokenizer {

namespace {

// Drops the characters for which keep(c) is false, maps the rest. Noticing a dropped first character is why this is not in place.
template <class Keep, class Map>
void filter(NormalizedText& t, const Keep& keep, const Map& map) {
  std::string out;
  out.reserve(t.text.size());
  for (size_t at = 0; at < t.text.size();) {
    const bool first = at == 0;
    const char32_t c = next_code(t.text, at);
    if (keep(c)) {
      append_utf8(out, map(c));
    } else if (first) {
      t.at_start = false;
    }
  }
  t.text = std::move(out);
}

constexpr auto kSame = [](char32_t c) { return c; };

class UnicodeForm final : public Normalizer {
 public:
  explicit UnicodeForm(NormalForm form) : form_(form) {}
  void apply(NormalizedText& t) const override { t.text = normalize(t.text, form_); }

 private:
  NormalForm form_;
};

class Lowercase final : public Normalizer {
 public:
  void apply(NormalizedText& t) const override { t.text = to_lower(t.text); }
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(NormalizedText& t) const override {
    size_t begin = 0, end = t.text.size();
    while (left_ && begin < end) {
      size_t next = begin;
      if (!is_whitespace(next_code(t.text, next))) break;
      begin = next;
      t.at_start = false;
    }
    while (right_ && end > begin) {
      const size_t previous = previous_character(t.text, end);
      size_t at = previous;
      if (!is_whitespace(next_code(t.text, at))) break;
      end = previous;
    }
    t.text = t.text.substr(begin, end - begin);
  }

 private:
  bool left_, right_;
};

class StripAccents final : public Normalizer {
 public:
  void apply(NormalizedText& t) const override {
    filter(
        t, [](char32_t c) { return !is_mark(c); }, kSame);
  }
};

class Replace final : public Normalizer {
 public:
  explicit Replace(Replacement replacement) : replacement_(std::move(replacement)) {}
  void apply(NormalizedText& t) const override {
    bool removed_start = false;
    t.text = replacement_.apply(t.text, &removed_start);
    if (removed_start) t.at_start = false;
  }

 private:
  Replacement replacement_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string text) : text_(std::move(text)) {}
  void apply(NormalizedText& t) const override {
    if (!t.text.empty()) t.text.insert(0, text_);
  }

 private:
  std::string text_;
};

class Bert final : public Normalizer {
 public:
  Bert(bool clean_text, bool handle_chinese_chars, bool strip_accents, bool lowercase)
      : clean_text_(clean_text), handle_chinese_chars_(handle_chinese_chars), strip_accents_(strip_accents), lowercase_(lowercase) {}

  void apply(NormalizedText& t) const override {
    if (clean_text_) {
      const auto is_space = [](char32_t c) { return c == '\t' || c == '\n' || c == '\r' || is_whitespace(c); };
      filter(
          t, [&](char32_t c) { return c == '\t' || c == '\n' || c == '\r' || (c != 0 && c != 0xFFFD && !is_other(c)); },
          [&](char32_t c) { return is_space(c) ? U' ' : c; });
    }
    if (handle_chinese_chars_) {
      std::string out;
      out.reserve(t.text.size());
      for (size_t at = 0; at < t.text.size();) {
        const char32_t c = next_code(t.text, at);
        const bool spaced = is_chinese_character(c);
        if (spaced) out += ' ';
        append_utf8(out, c);
        if (spaced) out += ' ';
      }
      t.text = std::move(out);
    }
    if (strip_accents_) {
      t.text = normalize(t.text, NormalForm::Nfd);
      filter(
          t, [](char32_t c) { return !is_nonspacing_mark(c); }, kSame);
    }
    if (lowercase_) t.text = to_lower(t.text);
  }

 private:
  bool clean_text_, handle_chinese_chars_, strip_accents_, lowercase_;
};

// SentencePiece's rules, applied to whole short graphemes first and to single characters else.
class Precompiled final : public Normalizer {
 public:
  explicit Precompiled(Charsmap map) : map_(std::move(map)) {}
  void apply(NormalizedText& t) const override {
    constexpr size_t kLongestGrapheme = 5;
    std::string out;
    out.reserve(t.text.size());
    for_each_grapheme(t.text, [&](std::string_view grapheme) {
      if (grapheme.size() <= kLongestGrapheme) {
        if (const auto replacement = map_.find(grapheme)) {
          out += *replacement;
          return;
        }
      }
      for (size_t at = 0; at < grapheme.size();) {
        const std::string_view character = grapheme.substr(at, utf8_length(grapheme[at]));
        out += map_.find(character).value_or(character);
        at += character.size();
      }
    });
    t.text = is_valid_utf8(out) ? std::move(out) : to_valid_utf8(out);  // replacements come from the file
  }

 private:
  Charsmap map_;
};

// SentencePiece's nmt rules: control characters go, unusual spaces become plain.
class Nmt final : public Normalizer {
 public:
  void apply(NormalizedText& t) const override {
    filter(
        t,
        [](char32_t c) {
          return !((c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F);
        },
        [](char32_t c) {
          const bool space = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                             c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
          return space ? U' ' : c;
        });
  }
};

class ByteLevel final : public Normalizer {
 public:
  void apply(NormalizedText& t) const override { t.text = bytes_to_characters(t.text); }
};

class Sequence final : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<const Normalizer>> parts) : parts_(std::move(parts)) {}
  void apply(NormalizedText& t) const override {
    const size_t limit = std::max(kMaxBytes, t.text.size() * kMaxGrowth);
    for (const auto& part : parts_) {
      part->apply(t);
      if (t.text.size() > limit)
        fail(ErrorCode::ResourceExhausted, "the tokenizer's normalizer makes more than {} bytes of one text", limit);
    }
  }

 private:
  static constexpr size_t kMaxBytes = 64u << 20, kMaxGrowth = 64;
  std::vector<std::unique_ptr<const Normalizer>> parts_;
};

}  // namespace

std::unique_ptr<const Normalizer> make_normalizer(const JsonNode& json, int depth) {
  if (depth > kMaxComponentDepth) json.unsupported("normalizers are nested too deeply");
  const std::string& type = json.at("type").string();
  if (type == "NFC") return std::make_unique<UnicodeForm>(NormalForm::Nfc);
  if (type == "NFD") return std::make_unique<UnicodeForm>(NormalForm::Nfd);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(NormalForm::Nfkc);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(NormalForm::Nfkd);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "Strip") return std::make_unique<Strip>(json.at("strip_left").boolean(), json.at("strip_right").boolean());
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "Replace") return std::make_unique<Replace>(Replacement(json));
  if (type == "Prepend") return std::make_unique<Prepend>(json.at("prepend").string());
  if (type == "Nmt") return std::make_unique<Nmt>();
  if (type == "ByteLevel") return std::make_unique<ByteLevel>();
  if (type == "BertNormalizer") {
    const bool lowercase = json.at("lowercase").boolean();
    return std::make_unique<Bert>(json.at("clean_text").boolean(), json.at("handle_chinese_chars").boolean(),
                                  json.boolean_or("strip_accents", lowercase), lowercase);
  }
  if (type == "Precompiled") {
    // SentencePiece's "identity" rules are an empty map.
    const auto charsmap = json.find("precompiled_charsmap");
    if (!charsmap || charsmap->string().empty()) return std::make_unique<Sequence>(std::vector<std::unique_ptr<const Normalizer>>());
    return std::make_unique<Precompiled>(Charsmap(decode_base64(charsmap->string())));
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<const Normalizer>> parts;
    for (const JsonNode& part : json.at("normalizers").array()) parts.push_back(make_normalizer(part, depth + 1));
    return std::make_unique<Sequence>(std::move(parts));
  }
  json.unsupported(
      "normalizer '" + type +
      "' is unknown (known: NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Replace, Prepend, Nmt, ByteLevel, BertNormalizer, "
      "Precompiled, Sequence)");
}

}  // namespace tokamak::llm::tokenizer
