#include "llm/tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "llm/tokenizer/byte_level.h"
#include "llm/tokenizer/regex.h"
#include "llm/tokenizer/replace.h"
#include "llm/tokenizer/unicode.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::tokenizer {

namespace {

using Steps = std::vector<std::unique_ptr<const PreTokenizer>>;

// What becomes of the delimiters that a split finds.
enum class Behavior { Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous };

struct Segment {
  size_t begin, end;
  bool is_match;
};

// Joins neighbours of `segments` as `behavior` says.
std::vector<Segment> merge(std::vector<Segment> segments, Behavior behavior) {
  const bool backwards = behavior == Behavior::MergedWithNext;
  if (backwards) std::reverse(segments.begin(), segments.end());
  std::vector<Segment> merged;
  bool previous = false;
  for (const Segment& s : segments) {
    const bool joins = behavior == Behavior::Contiguous ? s.is_match == previous : s.is_match && !previous;
    previous = s.is_match;
    if (!joins || merged.empty()) {
      merged.push_back(s);
    } else if (backwards) {
      merged.back().begin = s.begin;
    } else {
      merged.back().end = s.end;
    }
  }
  if (backwards) std::reverse(merged.begin(), merged.end());
  return merged;
}

// Splits every piece; find(text, f) calls f(begin, end) for each delimiter in order. With `invert`, what is between them are the
// delimiters.
template <class Find>
void split(Pieces& pieces, Behavior behavior, bool invert, const Find& find) {
  std::vector<Piece> out;
  out.reserve(pieces.list.size() * 2);
  std::vector<Segment> segments;
  for (const Piece& piece : pieces.list) {
    const auto emit = [&](size_t begin, size_t end) {
      if (begin < end) out.push_back({piece.text.substr(begin, end - begin), piece.at_start && begin == 0});
    };
    const bool simple = behavior == Behavior::Removed || behavior == Behavior::Isolated;
    const auto segment = [&](size_t begin, size_t end, bool is_match) {
      if (!simple) {
        segments.push_back({begin, end, is_match != invert});
      } else if (behavior == Behavior::Isolated || is_match == invert) {
        emit(begin, end);
      }
    };
    size_t done = 0;
    find(piece.text, [&](size_t begin, size_t end) {
      if (done < begin) segment(done, begin, false);
      segment(begin, end, true);
      done = end;
    });
    if (done < piece.text.size()) segment(done, piece.text.size(), false);
    if (!simple) {
      for (const Segment& s : merge(std::move(segments), behavior)) emit(s.begin, s.end);
      segments.clear();
    }
  }
  pieces.list = std::move(out);
}

// Every character with the property is a delimiter of its own.
template <class Is>
auto characters(const Is& is) {
  return [is](std::string_view text, const auto& f) {
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      if (is(next_code(text, at))) f(begin, at);
    }
  };
}

class Split final : public PreTokenizer {
 public:
  Split(Pattern pattern, Behavior behavior, bool invert) : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void apply(Pieces& pieces) const override {
    split(pieces, behavior_, invert_, [&](std::string_view text, const auto& f) { for_each_match(pattern_, text, f); });
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

class SplitCharacters final : public PreTokenizer {
 public:
  SplitCharacters(bool (*is)(char32_t), Behavior behavior) : is_(is), behavior_(behavior) {}
  void apply(Pieces& pieces) const override { split(pieces, behavior_, false, characters(is_)); }

 private:
  bool (*is_)(char32_t);
  Behavior behavior_;
};

// \w+|[^\w\s]+
class Whitespace final : public PreTokenizer {
 public:
  void apply(Pieces& pieces) const override {
    enum class Kind { Space, Word, Other };
    const auto kind_of = [](char32_t c) { return is_word_character(c) ? Kind::Word : is_whitespace(c) ? Kind::Space : Kind::Other; };
    split(pieces, Behavior::Removed, true, [&](std::string_view text, const auto& f) {
      for (size_t at = 0; at < text.size();) {
        const size_t begin = at;
        const Kind kind = kind_of(next_code(text, at));
        size_t end = at;
        for (size_t next = at; next < text.size() && kind_of(next_code(text, next)) == kind; end = next) {
        }
        if (kind != Kind::Space) f(begin, end);
        at = end;
      }
    });
  }
};

class Metaspace final : public PreTokenizer {
 public:
  enum class Prepend { First, Never, Always };
  Metaspace(std::string replacement, Prepend prepend, bool split)
      : replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}

  void apply(Pieces& pieces) const override {
    for (Piece& piece : pieces.list) {
      std::string text;
      text.reserve(piece.text.size() * 3 / 2 + replacement_.size());
      for (const char c : piece.text) {
        if (c == ' ') {
          text += replacement_;
        } else {
          text += c;
        }
      }
      if (!text.starts_with(replacement_) && (prepend_ == Prepend::Always || (prepend_ == Prepend::First && piece.at_start))) {
        text.insert(0, replacement_);
      }
      piece.text = pieces.keep(std::move(text));
    }
    if (!split_) return;
    split(pieces, Behavior::MergedWithNext, false, [&](std::string_view text, const auto& f) {
      for (size_t at = 0; (at = text.find(replacement_, at)) != std::string_view::npos; at += replacement_.size())
        f(at, at + replacement_.size());
    });
  }

 private:
  std::string replacement_;
  Prepend prepend_;
  bool split_;
};

class PrefixSpace final : public PreTokenizer {
 public:
  void apply(Pieces& pieces) const override {
    for (Piece& piece : pieces.list) {
      if (!piece.text.starts_with(' ')) piece.text = pieces.keep(" " + std::string(piece.text));
    }
  }
};

class MapBytes final : public PreTokenizer {
 public:
  void apply(Pieces& pieces) const override {
    for (Piece& piece : pieces.list) piece.text = pieces.keep(bytes_to_characters(piece.text));
  }
  bool maps_bytes() const override { return true; }
};

class FixedLength final : public PreTokenizer {
 public:
  explicit FixedLength(int64_t length) : length_(length) {}
  void apply(Pieces& pieces) const override {
    split(pieces, Behavior::Isolated, false, [&](std::string_view text, const auto& f) {
      for (size_t at = 0; at < text.size();) {
        const size_t begin = at;
        for (int64_t i = 0; i < length_ && at < text.size(); ++i) at += utf8_length(text[at]);
        f(begin, at);
      }
    });
  }

 private:
  int64_t length_;
};

constexpr std::string_view kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Behavior read_behavior(const JsonNode& json) {
  const std::string& name = json.string();
  if (name == "Removed") return Behavior::Removed;
  if (name == "Isolated") return Behavior::Isolated;
  if (name == "MergedWithPrevious") return Behavior::MergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::MergedWithNext;
  if (name == "Contiguous") return Behavior::Contiguous;
  json.unsupported("behavior '" + name + "' is unknown");
}

std::string read_character(const JsonNode& json) {
  const std::string& text = json.string();
  if (text.empty() || utf8_length(text[0]) != text.size()) json.corrupt("one character");
  return text;
}

std::unique_ptr<const PreTokenizer> read_metaspace(const JsonNode& json) {
  const std::string scheme = json.string_or("prepend_scheme", "always");
  auto prepend = scheme == "always"  ? Metaspace::Prepend::Always
                 : scheme == "first" ? Metaspace::Prepend::First
                                     : Metaspace::Prepend::Never;
  if (prepend == Metaspace::Prepend::Never && scheme != "never") json.unsupported("prepend_scheme '" + scheme + "' is unknown");
  if (!json.boolean_or("add_prefix_space", true)) prepend = Metaspace::Prepend::Never;  // the older spelling
  return std::make_unique<Metaspace>(read_character(json.at("replacement")), prepend, json.boolean_or("split", true));
}

template <class T, class... Args>
void add(Steps& steps, Args&&... args) {
  steps.push_back(std::make_unique<T>(std::forward<Args>(args)...));
}

void read_steps(const JsonNode& json, int depth, Steps& steps) {
  if (depth > kMaxComponentDepth) json.unsupported("pre-tokenizers are nested too deeply");
  const std::string& type = json.at("type").string();
  if (type == "Sequence") {
    for (const JsonNode& part : json.at("pretokenizers").array()) read_steps(part, depth + 1, steps);
  } else if (type == "ByteLevel") {
    if (json.at("add_prefix_space").boolean()) add<PrefixSpace>(steps);
    if (json.boolean_or("use_regex", true)) add<Split>(steps, Pattern(Regex(kGpt2Pattern)), Behavior::Isolated, false);
    add<MapBytes>(steps);
  } else if (type == "Split") {
    add<Split>(steps, read_pattern(json.at("pattern")), read_behavior(json.at("behavior")), json.at("invert").boolean());
  } else if (type == "Metaspace") {
    steps.push_back(read_metaspace(json));
  } else if (type == "Whitespace") {
    add<Whitespace>(steps);
  } else if (type == "WhitespaceSplit") {
    add<SplitCharacters>(steps, &is_whitespace, Behavior::Removed);
  } else if (type == "BertPreTokenizer") {
    add<SplitCharacters>(steps, &is_whitespace, Behavior::Removed);
    add<SplitCharacters>(steps, &is_punctuation, Behavior::Isolated);
  } else if (type == "Punctuation") {
    const auto behavior = json.find("behavior");
    add<SplitCharacters>(steps, &is_punctuation, behavior ? read_behavior(*behavior) : Behavior::Isolated);
  } else if (type == "Digits") {
    add<SplitCharacters>(steps, &is_numeric, json.at("individual_digits").boolean() ? Behavior::Isolated : Behavior::Contiguous);
  } else if (type == "CharDelimiterSplit") {
    add<Split>(steps, Pattern(read_character(json.at("delimiter"))), Behavior::Removed, false);
  } else if (type == "FixedLength") {
    const auto length = json.find("length");
    add<FixedLength>(steps, length ? length->integer(1, INT32_MAX) : 5);
  } else {
    json.unsupported(
        "pre-tokenizer '" + type +
        "' is unknown (known: Split, ByteLevel, Metaspace, Whitespace, WhitespaceSplit, BertPreTokenizer, Punctuation, Digits, "
        "CharDelimiterSplit, FixedLength, Sequence)");
  }
}

}  // namespace

std::vector<std::unique_ptr<const PreTokenizer>> make_pre_tokenizers(const JsonNode& json) {
  Steps steps;
  read_steps(json, 0, steps);
  return steps;
}

}  // namespace tokamak::llm::tokenizer
