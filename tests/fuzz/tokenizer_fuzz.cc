// Any bytes as a tokenizer.json, then a NUL and a text: an Error, or ids inside the vocabulary, whose text is UTF-8 and the same token by
// token.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "llm/tokenizer/tokenizer.h"
#include "llm/tokenizer/utf8.h"

using namespace tokamak;

namespace {

[[noreturn]] void finding(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

void check_decoding(const std::shared_ptr<const llm::Tokenizer>& tokenizer, const std::vector<int32_t>& ids, bool skip_special_tokens) {
  const std::string text = tokenizer->decode(ids, skip_special_tokens);
  if (!llm::tokenizer::is_valid_utf8(text)) finding("decoded text is not UTF-8");
  llm::StreamDecoder decoder(tokenizer, skip_special_tokens);
  std::string streamed;
  for (const int32_t id : ids) {
    const std::string piece = decoder.push(id);
    if (!llm::tokenizer::is_valid_utf8(piece)) finding("a streamed piece is not UTF-8");
    streamed += piece;
  }
  if (streamed + decoder.finish() != text) finding("streamed text differs from decode()");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t nul = input.find('\0');
  const std::string_view text = nul == std::string_view::npos ? "Hello 你好 \xFF  x" : input.substr(nul + 1);
  try {
    const auto tokenizer = llm::Tokenizer::from_json(input.substr(0, nul));
    std::vector<int32_t> ids;
    try {
      ids = tokenizer->encode(text);
      for (const int32_t id : ids) {
        if (id < 0) finding("a negative id");
      }
      if (tokenizer->encode(text) != ids) finding("a second encode() differs");
    } catch (const Error& e) {
      if (e.code() == ErrorCode::Internal) throw;
    }
    check_decoding(tokenizer, ids, true);
    // Ids that no text gives.
    ids.clear();
    for (const char c : text.substr(0, 200)) ids.push_back(static_cast<unsigned char>(c) - 1);
    check_decoding(tokenizer, ids, false);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::Internal) throw;
  }
  return 0;
}
