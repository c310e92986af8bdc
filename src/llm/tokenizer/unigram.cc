// Unigram language model (arXiv:1804.10959): the segmentation with the highest sum of token scores, by Viterbi.

#include <limits>

#include "llm/tokenizer/byte_trie.h"
#include "llm/tokenizer/model.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::tokenizer {

namespace {

constexpr double kUnknownPenalty = 10.0;  // below the lowest score, as in SentencePiece

class Unigram final : public Model {
 public:
  Unigram(Vocabulary vocabulary, std::vector<double> scores, int32_t unk, bool byte_fallback)
      : Model(std::move(vocabulary)), scores_(std::move(scores)), unk_(unk), byte_fallback_(byte_fallback) {
    double lowest = std::numeric_limits<double>::infinity();
    for (const double score : scores_) lowest = std::min(lowest, score);
    unknown_score_ = lowest - kUnknownPenalty;
    std::vector<std::pair<std::string_view, int32_t>> entries;
    this->vocabulary().for_each([&](std::string_view token, int32_t id) {
      if (!token.empty()) entries.emplace_back(token, id);
    });
    trie_ = ByteTrie(std::move(entries));
    byte_tokens_ = byte_token_ids(this->vocabulary());
  }

  void encode(std::string_view piece, bool, Scratch& scratch, std::vector<int32_t>& ids) const override {
    const auto cached = scratch.cache.find(piece);
    if (!cached.empty()) {
      ids.insert(ids.end(), cached.begin(), cached.end());
      return;
    }
    const size_t before = ids.size();
    find_best_path(piece, scratch.path);
    trace_back(piece, scratch.path, scratch.symbols, ids);
    scratch.cache.insert(piece, std::span(ids).subspan(before));
  }

 private:
  void find_best_path(std::string_view piece, std::vector<Scratch::PathNode>& path) const {
    path.assign(piece.size() + 1, {0.0, Scratch::kUnreached, 0});
    for (size_t begin = 0; begin < piece.size();) {
      const double so_far = path[begin].score;
      const auto offer = [&](size_t end, double score, int32_t id) {
        Scratch::PathNode& node = path[end];
        if (node.begin != Scratch::kUnreached && score <= node.score) return;
        node = {score, static_cast<uint32_t>(begin), id};
      };
      const size_t character = utf8_length(piece[begin]);
      bool has_single = false;
      ByteTrie::Node node = ByteTrie::kRoot;
      for (size_t at = begin; at < piece.size();) {
        node = trie_.child(node, piece[at++]);
        if (node == ByteTrie::kNone) break;
        const int32_t id = trie_.value(node);
        if (id < 0) continue;
        offer(at, so_far + scores_[static_cast<size_t>(id)], id);
        has_single = has_single || at == begin + character;
      }
      if (!has_single) {
        if (unk_ < 0) {
          fail(ErrorCode::InvalidArgument, "the tokenizer has no token for '{}', and no unk_id", piece.substr(begin, character));
        }
        offer(begin + character, so_far + unknown_score_, unk_);
      }
      begin += character;
    }
  }

  // Ids along the best path; neighbouring unknown characters are one unknown token, or the bytes of each.
  void trace_back(std::string_view piece, const std::vector<Scratch::PathNode>& path, std::vector<int32_t>& reversed,
                  std::vector<int32_t>& ids) const {
    reversed.clear();
    for (size_t end = piece.size(); end > 0;) {
      const int32_t id = path[end].id;
      size_t begin = path[end].begin;
      if (id != unk_) {
        reversed.push_back(id);
      } else {
        while (begin > 0 && path[begin].id == unk_) begin = path[begin].begin;
        add_unknown(piece.substr(begin, end - begin), reversed);
      }
      end = begin;
    }
    ids.insert(ids.end(), reversed.rbegin(), reversed.rend());
  }

  void add_unknown(std::string_view text, std::vector<int32_t>& reversed) const {
    if (const auto id = vocabulary().find(text)) return reversed.push_back(*id);  // characters apart are unknown, together a token
    const auto has = [&](char c) { return byte_tokens_[static_cast<unsigned char>(c)] >= 0; };
    if (!byte_fallback_ || !std::all_of(text.begin(), text.end(), has)) return reversed.push_back(unk_);
    for (auto it = text.rbegin(); it != text.rend(); ++it) reversed.push_back(byte_tokens_[static_cast<unsigned char>(*it)]);
  }

  std::vector<double> scores_;
  int32_t unk_;  // -1: none
  bool byte_fallback_;
  double unknown_score_ = 0;
  ByteTrie trie_;
  std::array<int32_t, 256> byte_tokens_;
};

}  // namespace

std::unique_ptr<const Model> make_unigram(const JsonNode& json) {
  Vocabulary vocabulary;
  std::vector<double> scores;
  const JsonNode vocab = json.at("vocab");
  if (!vocab.value().is_array()) vocab.corrupt("an array of [token, score]");
  if (static_cast<int64_t>(vocab.value().size()) > kMaxTokenId) vocab.unsupported("more tokens than 2^24");
  for (const auto& entry : vocab.value()) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      fail(ErrorCode::Corrupt, "tokenizer.json: {}[{}] should be [token, score]", vocab.path(), scores.size());
    }
    const std::string& token = entry[0].get_ref<const std::string&>();
    if (token.size() > kMaxTrieKeyBytes) vocab.unsupported("a token of more than 1024 bytes");
    vocabulary.add(token, static_cast<int32_t>(scores.size()));
    scores.push_back(entry[1].get<double>());
  }
  const auto unk = json.find("unk_id");
  const int64_t unk_id = unk ? unk->integer(0, static_cast<int64_t>(scores.size()) - 1) : -1;
  return std::make_unique<Unigram>(std::move(vocabulary), std::move(scores), static_cast<int32_t>(unk_id),
                                   json.boolean_or("byte_fallback", false));
}

}  // namespace tokamak::llm::tokenizer
