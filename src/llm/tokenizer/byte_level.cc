#include "llm/tokenizer/byte_level.h"

#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::tokenizer {

namespace {

constexpr bool is_printable(unsigned byte) { return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE; }

constexpr std::array<char16_t, 256> make_characters() {
  std::array<char16_t, 256> table{};
  char16_t next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) table[byte] = is_printable(byte) ? static_cast<char16_t>(byte) : next++;
  return table;
}

constexpr std::array<char16_t, 256> kCharacters = make_characters();
constexpr size_t kAlphabetEnd = 256 + 68;  // 68 bytes are not printable

constexpr std::array<int16_t, kAlphabetEnd> make_bytes() {
  std::array<int16_t, kAlphabetEnd> table{};
  for (auto& entry : table) entry = -1;
  for (unsigned byte = 0; byte < 256; ++byte) table[kCharacters[byte]] = static_cast<int16_t>(byte);
  return table;
}

constexpr std::array<int16_t, kAlphabetEnd> kBytes = make_bytes();

}  // namespace

const std::array<char16_t, 256>& byte_characters() { return kCharacters; }

std::optional<unsigned char> character_byte(char32_t c) {
  if (c >= kAlphabetEnd || kBytes[c] < 0) return std::nullopt;
  return static_cast<unsigned char>(kBytes[c]);
}

std::string bytes_to_characters(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) append_utf8(out, kCharacters[static_cast<unsigned char>(c)]);
  return out;
}

}  // namespace tokamak::llm::tokenizer
