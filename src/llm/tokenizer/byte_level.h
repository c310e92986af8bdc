#pragma once
// GPT-2's printable alphabet: every byte as one character, so that vocabularies of bytes are readable text.
// Method: encoder.py of https://github.com/openai/gpt-2, bytes_to_unicode.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tokamak::llm::tokenizer {

// The character of each byte: itself when printable Latin-1, else U+0100 and up in order.
const std::array<char16_t, 256>& byte_characters();
// The byte of a character; nothing when it is not in the alphabet.
std::optional<unsigned char> character_byte(char32_t c);

std::string bytes_to_characters(std::string_view bytes);

}  // namespace tokamak::llm::tokenizer
