// Any bytes as a grammar: the first says which kind. An Error, or a mask under which an answer can always go on; one that ends is a text of
// the grammar, and for a schema it is JSON.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "llm/grammar/grammar.h"

using namespace tokamak;

namespace {

[[noreturn]] void finding(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

std::vector<std::string> make_tokens() {
  std::vector<std::string> tokens = {""};  // the end
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (const char* piece : {"{\"", "\": ", "\", \"", "\"}", "[1,", "true", "null", "00", "-1.", "\n  ", "ab", "\xC3\xA9", "\xF0\x9F"})
    tokens.emplace_back(piece);
  return tokens;
}

std::shared_ptr<const llm::Grammar> make_grammar(int kind, std::string_view text) {
  llm::GrammarOptions options;
  options.max_states = 20'000;
  options.max_text_bytes = 1 << 14;
  switch (kind % 5) {
    case 0: return llm::Grammar::from_json_schema(text, options);
    case 1: return llm::Grammar::from_regex(text, options);
    case 2: return llm::Grammar::from_ebnf(text, options);
    case 3: return llm::Grammar::from_tools(text, {}, options);
    default: return llm::Grammar::from_choices(std::vector<std::string>{std::string(text), "a"}, options);
  }
}

void walk(const llm::Grammar& grammar, const llm::TokenMask& mask, const std::vector<std::string>& tokens, std::string_view choices,
          bool is_json) {
  const auto answer = mask.clone();
  std::vector<uint64_t> allowed((tokens.size() + 63) / 64);
  std::string text;
  uint32_t random = 1;
  for (int step = 0; step < 60; ++step) {
    std::fill(allowed.begin(), allowed.end(), 0);
    answer->fill(allowed);
    random = random * 1664525 + 1013904223 + static_cast<uint8_t>(choices[step % choices.size()]);
    auto token = static_cast<int32_t>((random >> 8) % tokens.size());
    const auto is_allowed = [&](int32_t t) { return allowed[t / 64] >> (t % 64) & 1; };
    if (is_allowed(0) && random % 3 == 0) token = 0;
    for (size_t tried = 0; !is_allowed(token); ++tried) {
      if (tried == tokens.size()) finding("no token is allowed");
      token = token + 1 == static_cast<int32_t>(tokens.size()) ? 0 : token + 1;
    }
    answer->accept(token);
    if (token == 0) {
      if (!grammar.accepts(text)) finding("an answer that ended is not of the grammar");
      if (is_json && !nlohmann::json::accept(text)) finding("an answer to a schema is not JSON");
      return;
    }
    text += tokens[token];
  }
  if (!grammar.accepts(text, true)) finding("an answer does not begin a text of the grammar");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  static const std::vector<std::string> tokens = make_tokens();
  static const auto vocabulary = llm::TokenTrie::from_tokens(tokens, {0});
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const auto grammar = make_grammar(data[0], text);
    const auto mask = llm::make_token_mask(grammar, vocabulary);
    for (int run = 0; run < 3; ++run)
      walk(*grammar, *mask, tokens, text.substr(text.size() * static_cast<size_t>(run) / 3), data[0] % 5 == 0 || data[0] % 5 == 3);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::InvalidArgument && e.code() != ErrorCode::ResourceExhausted) throw;
  }
  return 0;
}
