#include "llm/tokenizer/replace.h"

namespace tokamak::llm::tokenizer {

namespace {

constexpr size_t kMaxBytes = 64u << 20, kMaxGrowth = 32;

}  // namespace

Pattern read_pattern(const JsonNode& json) {
  if (const auto text = json.find("String")) return text->string();
  if (const auto pattern = json.find("Regex")) return Regex(pattern->string());
  json.corrupt("an object with 'String' or 'Regex'");
}

Replacement::Replacement(const JsonNode& json) : pattern_(read_pattern(json.at("pattern"))), content_(json.at("content").string()) {}

std::string Replacement::apply(std::string_view text, bool* removed_start) const {
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  for_each_match(pattern_, text, [&](size_t begin, size_t end) {
    out += text.substr(done, begin - done);
    out += content_;
    if (removed_start && begin == 0 && end > 0 && content_.empty()) *removed_start = true;
    done = end;
    if (out.size() > kMaxBytes && out.size() / kMaxGrowth > text.size()) {
      fail(ErrorCode::ResourceExhausted, "a Replace of the tokenizer makes more than {} bytes of {}", out.size(), text.size());
    }
  });
  out += text.substr(done);
  return out;
}

}  // namespace tokamak::llm::tokenizer
