#include "llm/tokenizer/added_tokens.h"

#include <algorithm>

#include "llm/tokenizer/model.h"
#include "llm/tokenizer/unicode.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::tokenizer {

namespace {

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  size_t at = previous_character(text, text.size());
  return is_word_character(next_code(text, at));
}

bool starts_with_word(std::string_view text) {
  size_t at = 0;
  return !text.empty() && is_word_character(next_code(text, at));
}

// Where the whitespace at the end of `text` begins.
size_t trailing_whitespace(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t previous = previous_character(text, end);
    size_t at = previous;
    if (!is_whitespace(next_code(text, at))) break;
    end = previous;
  }
  return end;
}

size_t leading_whitespace(std::string_view text) {
  size_t end = 0;
  for (size_t at = 0; at < text.size() && is_whitespace(next_code(text, at)); end = at) {
  }
  return end;
}

}  // namespace

AddedTokens::AddedTokens(const JsonNode& json, const Vocabulary& vocabulary, const Normalizer* normalizer) {
  std::unordered_map<std::string, size_t> places;
  for (const JsonNode& item : json.array()) {
    AddedToken token{.id = static_cast<int32_t>(item.at("id").integer(0, kMaxTokenId)),
                     .content = item.at("content").string(),
                     .pattern = {},
                     .single_word = item.boolean_or("single_word", false),
                     .lstrip = item.boolean_or("lstrip", false),
                     .rstrip = item.boolean_or("rstrip", false),
                     .normalized = item.boolean_or("normalized", true),
                     .special = item.boolean_or("special", false)};
    if (token.content.empty()) continue;
    if (token.content.size() > kMaxTrieKeyBytes) item.unsupported("an added token of more than 1024 bytes");
    if (const auto id = vocabulary.find(token.content)) token.id = *id;
    token.pattern = token.content;
    if (token.normalized && normalizer) {
      NormalizedText text{token.content};
      normalizer->apply(text);
      token.pattern = std::move(text.text);
      if (token.pattern.size() > kMaxTrieKeyBytes) item.unsupported("an added token of more than 1024 bytes when normalized");
    }
    const auto [place, is_new] = places.emplace(token.content, tokens_.size());
    if (is_new) {
      tokens_.push_back(std::move(token));
    } else {
      tokens_[place->second] = std::move(token);
    }
  }
  std::vector<std::pair<std::string_view, int32_t>> patterns[2];
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    by_id_[token.id] = i;
    by_content_[token.content] = i;
    end_ = std::max(end_, token.id + 1);
    if (!token.pattern.empty()) patterns[token.normalized].emplace_back(token.pattern, static_cast<int32_t>(i));
  }
  for (const bool normalized : {false, true}) tries_[normalized] = ByteTrie(std::move(patterns[normalized]));
}

std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text, bool normalized) const {
  std::vector<Part> parts;
  const ByteTrie& trie = tries_[normalized];
  size_t done = 0;
  for (size_t at = 0; !trie.empty() && at < text.size();) {
    const auto match = trie.longest_match(text.substr(at));
    if (match.length == 0) {
      ++at;  // no pattern begins inside a character
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(match.value)];
    size_t begin = at, end = at + match.length;
    at = end;
    if (token.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (token.lstrip) begin = std::max(trailing_whitespace(text.substr(0, begin)), done);
    if (token.rstrip) end += leading_whitespace(text.substr(end));
    if (done < begin) parts.push_back({text.substr(done, begin - done), -1});
    parts.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), -1});
  return parts;
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &tokens_[it->second];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto it = by_content_.find(content);
  return it == by_content_.end() ? nullptr : &tokens_[it->second];
}

}  // namespace tokamak::llm::tokenizer
