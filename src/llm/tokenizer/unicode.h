#pragma once
// The character classes and normal forms that normalizers and pre-tokenizers are defined by. Data: utf8proc (Unicode 14 or later).

#include <string>
#include <string_view>

namespace tokamak::llm::tokenizer {

bool is_whitespace(char32_t c);   // property White_Space
bool is_numeric(char32_t c);      // categories Nd, Nl, No
bool is_punctuation(char32_t c);  // categories P*, and every ASCII symbol
bool is_mark(char32_t c);         // categories M*
bool is_nonspacing_mark(char32_t c);
bool is_other(char32_t c);           // categories Cc, Cf, Cs, Co: what BERT's clean_text removes
bool is_word_character(char32_t c);  // \w of UTS 18: Alphabetic, M*, Nd, Pc, Join_Control
bool is_chinese_character(char32_t c);
bool is_letter(char32_t c);     // categories L*
bool is_upper(char32_t c);      // Lu
bool is_lower(char32_t c);      // Ll
bool is_printable(char32_t c);  // what Python's repr() does not escape

enum class NormalForm { Nfc, Nfd, Nfkc, Nfkd };
// `text` is valid UTF-8.
std::string normalize(std::string_view text, NormalForm form);

// Lower case, character by character (no context, so no final sigma).
std::string to_lower(std::string_view text);
std::string to_upper(std::string_view text);

// Calls f(grapheme) for each extended grapheme cluster of valid UTF-8.
template <class F>
void for_each_grapheme(std::string_view text, const F& f);

// Bytes of the extended grapheme cluster at the start of `text`, which is not empty.
size_t grapheme_length(std::string_view text);

template <class F>
void for_each_grapheme(std::string_view text, const F& f) {
  while (!text.empty()) {
    const size_t length = grapheme_length(text);
    f(text.substr(0, length));
    text.remove_prefix(length);
  }
}

}  // namespace tokamak::llm::tokenizer
