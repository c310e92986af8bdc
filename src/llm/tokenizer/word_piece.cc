// WordPiece: the longest token that begins the rest of the word, again and again; a word with a rest that nothing begins is unknown.

#include "llm/tokenizer/byte_trie.h"
#include "llm/tokenizer/model.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::tokenizer {

namespace {

class WordPiece final : public Model {
 public:
  WordPiece(Vocabulary vocabulary, std::string unk_token, std::string_view continuing_subword_prefix, size_t max_characters)
      : Model(std::move(vocabulary)), unk_token_(std::move(unk_token)), max_characters_(max_characters) {
    std::vector<std::pair<std::string_view, int32_t>> first, later;
    this->vocabulary().for_each([&](std::string_view token, int32_t id) {
      first.emplace_back(token, id);
      if (token.starts_with(continuing_subword_prefix)) later.emplace_back(token.substr(continuing_subword_prefix.size()), id);
    });
    first_ = ByteTrie(std::move(first));
    later_ = ByteTrie(std::move(later));
  }

  void encode(std::string_view word, bool, Scratch& scratch, std::vector<int32_t>& ids) const override {
    const auto cached = scratch.cache.find(word);
    if (!cached.empty()) {
      ids.insert(ids.end(), cached.begin(), cached.end());
      return;
    }
    const size_t before = ids.size();
    if (!encode_known(word, ids)) {
      ids.resize(before);
      ids.push_back(unknown());
    }
    scratch.cache.insert(word, std::span(ids).subspan(before));
  }

 private:
  bool encode_known(std::string_view word, std::vector<int32_t>& ids) const {
    if (count_characters(word) > max_characters_) return false;
    for (size_t at = 0; at < word.size();) {
      const auto match = (at == 0 ? first_ : later_).longest_match(word.substr(at));
      if (match.length == 0) return false;
      ids.push_back(match.value);
      at += match.length;
    }
    return true;
  }

  int32_t unknown() const {
    if (const auto id = vocabulary().find(unk_token_)) return *id;
    fail(ErrorCode::InvalidArgument, "the tokenizer's unk_token '{}' is needed and not in its vocabulary", unk_token_);
  }

  std::string unk_token_;
  size_t max_characters_;
  ByteTrie first_, later_;  // tokens that begin a word, and the rest without their prefix
};

// Whole words or nothing.
class WordLevel final : public Model {
 public:
  WordLevel(Vocabulary vocabulary, std::string unk_token) : Model(std::move(vocabulary)), unk_token_(std::move(unk_token)) {}
  void encode(std::string_view word, bool, Scratch&, std::vector<int32_t>& ids) const override {
    auto id = vocabulary().find(word);
    if (!id) id = vocabulary().find(unk_token_);
    if (!id) fail(ErrorCode::InvalidArgument, "the tokenizer's unk_token '{}' is needed and not in its vocabulary", unk_token_);
    ids.push_back(*id);
  }

 private:
  std::string unk_token_;
};

}  // namespace

std::unique_ptr<const Model> make_word_piece(const JsonNode& json) {
  Vocabulary vocabulary(json.at("vocab"));
  vocabulary.for_each([&](std::string_view token, int32_t) {
    if (token.size() > kMaxTrieKeyBytes) json.unsupported("a token of more than 1024 bytes");
  });
  const auto limit = json.find("max_input_chars_per_word");
  return std::make_unique<WordPiece>(std::move(vocabulary), json.string_or("unk_token", "[UNK]"),
                                     json.string_or("continuing_subword_prefix", "##"),
                                     limit ? static_cast<size_t>(limit->integer(0, INT32_MAX)) : 100);
}

std::unique_ptr<const Model> make_word_level(const JsonNode& json) {
  return std::make_unique<WordLevel>(Vocabulary(json.at("vocab")), json.string_or("unk_token", "<unk>"));
}

}  // namespace tokamak::llm::tokenizer
