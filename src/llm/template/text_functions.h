#pragma once
// Python's string algorithms that both methods and filters use. All texts are valid UTF-8.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "llm/template/budget.h"

namespace tokamak::llm::jinja {

enum class Side { Left, Right, Both };
// Drops characters of `set` (whitespace when there is none) at the ends.
std::string_view strip(std::string_view text, Side side, const std::optional<std::string_view>& set = std::nullopt);

// Of the first `count` occurrences when count >= 0. An empty `from` stands between all characters.
std::string replace(std::string_view text, std::string_view from, std::string_view to, int64_t count, Budget& budget);

// At a separator, or at runs of whitespace; at most `limit` cuts when limit >= 0, counted from the right when `from_right`.
std::vector<std::string_view> split(std::string_view text, const std::optional<std::string_view>& separator, int64_t limit,
                                    bool from_right);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

std::string capitalize(std::string_view text);
std::string title(std::string_view text);  // str.title(): letters behind anything but a letter

}  // namespace tokamak::llm::jinja
