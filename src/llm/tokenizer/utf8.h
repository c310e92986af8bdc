#pragma once
// UTF-8: the encoding of every string in the tokenizer.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tokamak::llm::tokenizer {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

struct Utf8Scan {
  size_t length;    // bytes of the character, or of the maximal invalid part (Unicode 15, section 3.9)
  char32_t code;    // U+FFFD when invalid
  bool valid;       // false: `length` bytes are no character
  bool incomplete;  // invalid only because the text ends here
};

// The character that starts at text[at]; `at` < text.size().
Utf8Scan scan_utf8(std::string_view text, size_t at);

bool is_valid_utf8(std::string_view text);

// Each maximal invalid part becomes U+FFFD, as in Rust's from_utf8_lossy.
std::string to_valid_utf8(std::string_view text);

void append_utf8(std::string& out, char32_t code);

// The rest is for valid UTF-8 only.

// Bytes of the character whose first byte is `lead`.
inline size_t utf8_length(char lead) {
  const auto b = static_cast<unsigned char>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

// Reads the character at `at` and moves past it.
inline char32_t next_code(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  const size_t length = utf8_length(text[at]);
  char32_t code;
  switch (length) {
    case 1: code = byte(0); break;
    case 2: code = (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F); break;
    case 3: code = (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F); break;
    default: code = (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F); break;
  }
  at += length;
  return code;
}

// Start of the character that ends before `at` > 0.
inline size_t previous_character(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

size_t count_characters(std::string_view text);

}  // namespace tokamak::llm::tokenizer
