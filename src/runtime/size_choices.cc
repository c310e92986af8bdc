#include "runtime/size_choices.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace tokamak {

int64_t size_of(const NodeView& view) { return view.output_shapes.empty() ? 0 : num_elements(view.output_shapes[0]); }

std::string to_text(const std::vector<SizeChoice>& table) {
  std::string text;
  for (const SizeChoice& c : table) {
    CHECK(c.kernel.find_first_of("; ") == std::string::npos && c.tactic.find(';') == std::string::npos);
    text += fmt::format("{}{} {} {}", text.empty() ? "" : "; ", c.size, c.kernel, c.tactic);
  }
  return text;
}

std::vector<SizeChoice> parse_size_choices(std::string_view text) {
  std::vector<SizeChoice> table;
  const auto corrupt = [&] {
    fail(ErrorCode::Corrupt, "\"{}\" is not a table of kernels by size; rebuild the engine", text.substr(0, 200));
  };
  std::string_view rest = text;
  while (!rest.empty()) {
    std::string_view entry = rest.substr(0, rest.find(';'));
    rest.remove_prefix(std::min(rest.size(), entry.size() + 1));
    while (entry.starts_with(' ')) entry.remove_prefix(1);
    SizeChoice c;
    const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), c.size);
    if (error != std::errc() || c.size < 0) corrupt();
    entry.remove_prefix(static_cast<size_t>(end - entry.data()));
    if (!entry.starts_with(' ')) corrupt();
    entry.remove_prefix(1);
    const size_t space = entry.find(' ');
    if (space == 0 || space == std::string_view::npos) corrupt();
    c.kernel = entry.substr(0, space);
    c.tactic = entry.substr(space + 1);
    table.push_back(std::move(c));
  }
  if (table.empty()) corrupt();
  return table;
}

void sort_by_nearness(std::vector<SizeChoice>& table, int64_t size) {
  const auto distance = [size](const SizeChoice& c) {
    return std::fabs(std::log2(static_cast<double>(std::max<int64_t>(c.size, 1)) / static_cast<double>(std::max<int64_t>(size, 1))));
  };
  std::stable_sort(table.begin(), table.end(), [&](const SizeChoice& a, const SizeChoice& b) {
    const double da = distance(a), db = distance(b);
    return da != db ? da < db : a.size < b.size;
  });
}

}  // namespace tokamak
