#pragma once
// `format` of strings as regular expressions.

#include <optional>
#include <string>
#include <string_view>

namespace tokamak::llm::grammar {

// The pattern all of the string has to match; "" for formats that do not restrict it; nothing for an unknown one.
std::optional<std::string> format_pattern(std::string_view format);

// The names format_pattern knows, for messages.
std::string known_formats();

}  // namespace tokamak::llm::grammar
