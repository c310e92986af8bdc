#include "llm/grammar/vocabulary.h"

#include <algorithm>

#include "base/error.h"
#include "llm/tokenizer/tokenizer.h"

namespace tokamak::llm {

namespace grammar {

int kind_of_byte(uint8_t byte) {
  if (byte < 0x20) return 0;
  if (byte >= '0' && byte <= '9') return 1;
  if (byte >= 'A' && byte <= 'Z') return byte <= 'F' ? 2 : 3;
  if (byte >= 'a' && byte <= 'z') return byte <= 'f' ? 4 : 5;
  if (byte < '0') return 6 + (byte - 0x20);    // 16
  if (byte < 'A') return 22 + (byte - 0x3A);   // 7
  if (byte < 'a') return 29 + (byte - 0x5B);   // 6
  if (byte < 0x80) return 35 + (byte - 0x7B);  // 5
  return 40 + (byte >> 4) - 8;                 // 8
}

Trie make_trie(const std::vector<std::string>& texts) {
  std::vector<int32_t> order;
  for (size_t id = 0; id < texts.size(); ++id) {
    if (!texts[id].empty()) order.push_back(static_cast<int32_t>(id));
  }
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return std::pair<const std::string&, int32_t>(texts[a], a) < std::pair<const std::string&, int32_t>(texts[b], b);
  });
  Trie trie;
  std::vector<uint32_t> path;  // the nodes of the text before, from the root
  const auto open = [&](uint8_t byte) {
    path.push_back(trie.size());
    trie.skip.push_back(0);
    trie.below.push_back(0);
    trie.byte.push_back(byte);
    trie.depth.push_back(static_cast<uint16_t>(path.size() - 1));
    trie.token_begin.push_back(static_cast<uint32_t>(trie.tokens.size()));
  };
  const auto close = [&] {
    const uint32_t node = path.back();
    path.pop_back();
    trie.skip[node] = trie.size();
    if (!path.empty()) trie.below[path.back()] |= trie.below[node] | uint64_t{1} << kind_of_byte(trie.byte[node]);
  };
  open(0);
  std::string_view last;
  for (const int32_t id : order) {
    const std::string& text = texts[id];
    const size_t shared = std::mismatch(text.begin(), text.end(), last.begin(), last.end()).first - text.begin();
    while (path.size() > shared + 1) close();
    for (size_t i = shared; i < text.size(); ++i) open(static_cast<uint8_t>(text[i]));
    trie.tokens.push_back(id);
    last = text;
  }
  while (!path.empty()) close();
  trie.token_begin.push_back(static_cast<uint32_t>(trie.tokens.size()));
  return trie;
}

}  // namespace grammar

using grammar::Vocabulary;

namespace {

std::unique_ptr<const Vocabulary> make_vocabulary(Vocabulary vocabulary) {
  const auto size = static_cast<int64_t>(vocabulary.text.size());
  for (const int32_t id : vocabulary.eos_ids) {
    if (id < 0) fail(ErrorCode::InvalidArgument, "end-of-sequence id {} is negative; the vocabulary has {} tokens", id, size);
    if (id < size) vocabulary.text[id].clear();
    if (static_cast<size_t>(id) < vocabulary.first_text.size()) vocabulary.first_text[id].clear();
  }
  for (auto* texts : {&vocabulary.text, &vocabulary.first_text}) {
    for (std::string& text : *texts) {
      if (text.size() > grammar::kMaxTokenBytes) text.clear();
      vocabulary.max_token_bytes = std::max(vocabulary.max_token_bytes, static_cast<int>(text.size()));
    }
  }
  vocabulary.trie = grammar::make_trie(vocabulary.text);
  if (vocabulary.first_text == vocabulary.text) vocabulary.first_text.clear();
  if (!vocabulary.first_text.empty()) vocabulary.first_trie = grammar::make_trie(vocabulary.first_text);
  return std::make_unique<const Vocabulary>(std::move(vocabulary));
}

}  // namespace

TokenTrie::TokenTrie(std::unique_ptr<const Vocabulary> vocabulary) : vocabulary_(std::move(vocabulary)) {}
TokenTrie::~TokenTrie() = default;

std::shared_ptr<const TokenTrie> TokenTrie::from_tokenizer(const Tokenizer& tokenizer, std::vector<int32_t> eos_ids) {
  Vocabulary vocabulary;
  const int size = tokenizer.vocab_size();
  vocabulary.text.resize(size);
  vocabulary.first_text.resize(size);
  for (int32_t id = 0; id < size; ++id) {
    if (tokenizer.is_special(id)) continue;
    vocabulary.text[id] = tokenizer.token_bytes(id, false);
    vocabulary.first_text[id] = tokenizer.token_bytes(id, true);
  }
  vocabulary.eos_ids = std::move(eos_ids);
  return std::shared_ptr<const TokenTrie>(new TokenTrie(make_vocabulary(std::move(vocabulary))));
}

std::shared_ptr<const TokenTrie> TokenTrie::from_tokens(std::span<const std::string> tokens, std::vector<int32_t> eos_ids) {
  Vocabulary vocabulary;
  vocabulary.text.assign(tokens.begin(), tokens.end());
  vocabulary.eos_ids = std::move(eos_ids);
  return std::shared_ptr<const TokenTrie>(new TokenTrie(make_vocabulary(std::move(vocabulary))));
}

}  // namespace tokamak::llm
