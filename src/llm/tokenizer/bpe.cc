// Byte pair encoding (arXiv:1508.07909): characters, then the merge of lowest rank, leftmost first, until none applies.

#include <algorithm>
#include <optional>

#include "llm/tokenizer/byte_level.h"
#include "llm/tokenizer/model.h"
#include "llm/tokenizer/pair_map.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::tokenizer {

namespace {

constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581, SentencePiece's space
constexpr uint32_t kNoRank = UINT32_MAX;

struct Options {
  std::optional<std::string> unk_token;
  std::string continuing_subword_prefix, end_of_word_suffix;
  bool fuse_unk = false, byte_fallback = false, ignore_merges = false;
};

class Bpe final : public Model {
 public:
  Bpe(Vocabulary vocabulary, PairMap merges, Options options, bool splits_at_metaspace)
      : Model(std::move(vocabulary)),
        merges_(std::move(merges)),
        options_(std::move(options)),
        plain_(options_.continuing_subword_prefix.empty() && options_.end_of_word_suffix.empty()),
        splits_at_metaspace_(splits_at_metaspace),
        byte_tokens_(byte_token_ids(this->vocabulary())) {
    if (options_.unk_token) unk_ = this->vocabulary().find(*options_.unk_token).value_or(kMissing);
    std::string character;
    for (unsigned byte = 0; byte < 256; ++byte) {
      character.clear();
      append_utf8(character, byte_characters()[byte]);
      byte_symbols_[byte] = this->vocabulary().find(character).value_or(kMissing);
      if (byte < 128) ascii_symbols_[byte] = this->vocabulary().find(std::string(1, static_cast<char>(byte))).value_or(kMissing);
    }
  }

  bool can_map_bytes() const override { return plain_; }

  void encode(std::string_view piece, bool map_bytes, Scratch& scratch, std::vector<int32_t>& ids) const override {
    if (!splits_at_metaspace_ || map_bytes) return encode_word(piece, map_bytes, scratch, ids);
    // No merge reaches from another character over a metaspace behind it: what lies between is independent, and words repeat.
    size_t begin = 0;
    for (size_t at = 0; (at = piece.find(kMetaspace, at)) != std::string_view::npos; at += kMetaspace.size()) {
      if (at == begin || piece.substr(0, at).ends_with(kMetaspace)) continue;
      encode_word(piece.substr(begin, at - begin), false, scratch, ids);
      begin = at;
    }
    encode_word(piece.substr(begin), false, scratch, ids);
  }

 private:
  static constexpr int32_t kMissing = -1;

  void encode_word(std::string_view word, bool map_bytes, Scratch& scratch, std::vector<int32_t>& ids) const {
    const auto cached = scratch.cache.find(word);
    if (!cached.empty()) {
      ids.insert(ids.end(), cached.begin(), cached.end());
      return;
    }
    const size_t before = ids.size();
    merge_word(word, map_bytes, scratch, ids);
    scratch.cache.insert(word, std::span(ids).subspan(before));
  }

  void merge_word(std::string_view word, bool map_bytes, Scratch& scratch, std::vector<int32_t>& ids) const {
    if (options_.ignore_merges) {
      if (const auto whole = vocabulary().find(map_bytes ? bytes_to_characters(word) : word)) {
        ids.push_back(*whole);
        return;
      }
    }
    std::vector<int32_t>& symbols = scratch.symbols;
    symbols.clear();
    if (map_bytes) {
      split_bytes(word, symbols);
    } else {
      split_characters(word, symbols);
    }
    constexpr size_t kShort = 48;
    if (symbols.size() > kShort) {
      merge_long(scratch);
    } else if (symbols.size() > 1) {
      merge_short(scratch);
    }
    ids.insert(ids.end(), symbols.begin(), symbols.end());
  }

  // Symbols of a word before merging. An unknown token waits, so that its neighbours can fuse with it; byte tokens do not end the wait and
  // so overtake it, as in `tokenizers`.
  struct Spelling {
    std::vector<int32_t>& symbols;
    int32_t waiting = kMissing;

    void flush() {
      if (waiting != kMissing) symbols.push_back(std::exchange(waiting, kMissing));
    }
    void add_known(int32_t id) {
      flush();
      symbols.push_back(id);
    }
  };

  void add_unknown(std::string_view character, Spelling& spelling) const {
    if (options_.byte_fallback) {
      const auto has = [&](char c) { return byte_tokens_[static_cast<unsigned char>(c)] >= 0; };
      if (std::all_of(character.begin(), character.end(), has)) {
        for (const char c : character) spelling.symbols.push_back(byte_tokens_[static_cast<unsigned char>(c)]);
        return;
      }
    }
    if (!options_.unk_token) return;  // as in `tokenizers`: the character is dropped
    if (unk_ == kMissing) {
      fail(ErrorCode::InvalidArgument, "the tokenizer has no token for '{}', and its unk_token '{}' is not in the vocabulary", character,
           *options_.unk_token);
    }
    if (!options_.fuse_unk) spelling.flush();
    spelling.waiting = unk_;
  }

  void split_bytes(std::string_view word, std::vector<int32_t>& symbols) const {
    Spelling spelling{symbols};
    for (const char c : word) {
      const int32_t id = byte_symbols_[static_cast<unsigned char>(c)];
      if (id != kMissing) {
        spelling.add_known(id);
      } else {
        add_unknown(bytes_to_characters({&c, 1}), spelling);
      }
    }
    spelling.flush();
  }

  void split_characters(std::string_view word, std::vector<int32_t>& symbols) const {
    Spelling spelling{symbols};
    std::string spelled;
    for (size_t at = 0; at < word.size();) {
      std::string_view character = word.substr(at, utf8_length(word[at]));
      const bool first = at == 0, last = at + character.size() == word.size();
      at += character.size();
      if (!plain_) {
        spelled = first ? "" : options_.continuing_subword_prefix;
        spelled += character;
        if (last) spelled += options_.end_of_word_suffix;
        character = spelled;
      }
      const int32_t id = plain_ && character.size() == 1 ? ascii_symbols_[static_cast<unsigned char>(character[0])]
                                                         : vocabulary().find(character).value_or(kMissing);
      if (id != kMissing) {
        spelling.add_known(id);
      } else {
        add_unknown(character, spelling);
      }
    }
    spelling.flush();
  }

  // Few symbols: scan for the lowest rank, close the gap.
  void merge_short(Scratch& scratch) const {
    std::vector<int32_t>& symbols = scratch.symbols;
    std::vector<uint32_t>& ranks = scratch.ranks;  // of the pair that begins at each symbol
    std::vector<int32_t>& merged = scratch.next;   // what the pair becomes
    size_t n = symbols.size();
    ranks.resize(n);
    merged.resize(n);
    const auto look_up = [&](size_t i) {
      const auto merge = i + 1 < n ? merges_.find(symbols[i], symbols[i + 1]) : PairMap::Merge();
      ranks[i] = merge.rank;
      merged[i] = merge.id;
    };
    for (size_t i = 0; i < n; ++i) look_up(i);
    for (;;) {
      const size_t best = static_cast<size_t>(std::min_element(ranks.begin(), ranks.begin() + static_cast<ptrdiff_t>(n)) - ranks.begin());
      if (ranks[best] == kNoRank) break;
      symbols[best] = merged[best];
      for (size_t i = best + 1; i + 1 < n; ++i) {
        symbols[i] = symbols[i + 1];
        ranks[i] = ranks[i + 1];
        merged[i] = merged[i + 1];
      }
      --n;
      look_up(best);
      if (best > 0) look_up(best - 1);
    }
    symbols.resize(n);
  }

  // Many symbols: a linked list and a heap of (rank, place); entries whose pair has changed since are skipped.
  void merge_long(Scratch& scratch) const {
    std::vector<int32_t>&symbols = scratch.symbols, &next = scratch.next, &previous = scratch.previous;
    std::vector<uint32_t>& ranks = scratch.ranks;
    std::vector<uint64_t>& heap = scratch.heap;
    const size_t n = symbols.size();
    next.resize(n);
    previous.resize(n);
    ranks.assign(n, kNoRank);
    heap.clear();
    const auto at = [](int32_t i) { return static_cast<size_t>(i); };
    const auto entry = [](uint32_t rank, size_t i) { return static_cast<uint64_t>(rank) << 32 | i; };
    for (size_t i = 0; i < n; ++i) {
      next[i] = i + 1 < n ? static_cast<int32_t>(i + 1) : -1;
      previous[i] = static_cast<int32_t>(i) - 1;
      if (i + 1 < n) ranks[i] = merges_.find(symbols[i], symbols[i + 1]).rank;
      if (ranks[i] != kNoRank) heap.push_back(entry(ranks[i], i));
    }
    const auto later = std::greater<uint64_t>();
    std::make_heap(heap.begin(), heap.end(), later);
    const auto look_up = [&](size_t i) {
      ranks[i] = next[i] < 0 ? kNoRank : merges_.find(symbols[i], symbols[at(next[i])]).rank;
      if (ranks[i] == kNoRank) return;
      heap.push_back(entry(ranks[i], i));
      std::push_heap(heap.begin(), heap.end(), later);
    };
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end(), later);
      const auto rank = static_cast<uint32_t>(heap.back() >> 32);
      const size_t left = heap.back() & UINT32_MAX;
      heap.pop_back();
      if (ranks[left] != rank) continue;
      const size_t right = at(next[left]);
      symbols[left] = merges_.find(symbols[left], symbols[right]).id;
      ranks[right] = kNoRank;
      symbols[right] = kMissing;
      next[left] = next[right];
      if (next[left] >= 0) previous[at(next[left])] = static_cast<int32_t>(left);
      look_up(left);
      if (previous[left] >= 0) look_up(at(previous[left]));
    }
    std::erase(symbols, kMissing);
  }

  PairMap merges_;
  Options options_;
  bool plain_;  // neither prefix nor suffix
  bool splits_at_metaspace_;
  int32_t unk_ = kMissing;
  std::array<int32_t, 256> byte_tokens_;   // "<0x0A>"
  std::array<int32_t, 256> byte_symbols_;  // GPT-2's alphabet
  std::array<int32_t, 128> ascii_symbols_;
};

// The two sides of a merge: "a b" or ["a", "b"].
std::pair<std::string_view, std::string_view> read_merge(const JsonNode& json) {
  if (json.value().is_string()) {
    const std::string_view text = json.string();
    const size_t space = text.find(' ');
    if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  } else if (json.value().is_array() && json.value().size() == 2 && json.value()[0].is_string() && json.value()[1].is_string()) {
    return {json.value()[0].get_ref<const std::string&>(), json.value()[1].get_ref<const std::string&>()};
  }
  json.corrupt("a merge: \"a b\" or [\"a\", \"b\"]");
}

}  // namespace

std::unique_ptr<const Model> make_bpe(const JsonNode& json) {
  Options options;
  if (const auto unk = json.find("unk_token")) options.unk_token = unk->string();
  options.continuing_subword_prefix = json.string_or("continuing_subword_prefix", "");
  options.end_of_word_suffix = json.string_or("end_of_word_suffix", "");
  options.fuse_unk = json.boolean_or("fuse_unk", false);
  options.byte_fallback = json.boolean_or("byte_fallback", false);
  options.ignore_merges = json.boolean_or("ignore_merges", false);
  Vocabulary vocabulary(json.at("vocab"));

  const JsonNode merges_json = json.at("merges");
  if (!merges_json.value().is_array()) merges_json.corrupt("an array");
  PairMap merges(merges_json.value().size());
  bool splits_at_metaspace = !options.ignore_merges && options.continuing_subword_prefix.empty() && options.end_of_word_suffix.empty() &&
                             vocabulary.find(kMetaspace).has_value();
  uint32_t rank = 0;
  std::string joined;
  for (const auto& item : merges_json.value()) {
    if (item.is_string() && item.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto [a, b] = read_merge({item, merges_json.path() + "[...]"});
    const size_t prefix = options.continuing_subword_prefix.size();
    joined = a;
    if (b.size() >= prefix) joined += b.substr(prefix);
    const auto a_id = vocabulary.find(a), b_id = vocabulary.find(b), id = vocabulary.find(joined);
    if (!a_id || !b_id || !id) {
      fail(ErrorCode::Corrupt, "tokenizer.json: {}: '{}' of merge {} is not in the vocabulary", merges_json.path(),
           !a_id   ? a
           : !b_id ? b
                   : joined,
           rank);
    }
    merges.insert(*a_id, *b_id, {rank++, *id});
    if (b.starts_with(kMetaspace) && !a.ends_with(kMetaspace)) splits_at_metaspace = false;
  }
  return std::make_unique<Bpe>(std::move(vocabulary), std::move(merges), std::move(options), splits_at_metaspace);
}

}  // namespace tokamak::llm::tokenizer
