#include "cli/args.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace tokamak::cli {

namespace {

// Levenshtein distance, letters compared without case.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      const bool same = std::tolower(static_cast<unsigned char>(a[i - 1])) == std::tolower(static_cast<unsigned char>(b[j - 1]));
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (same ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string_view unquoted(std::string_view text) {
  if (text.size() >= 2 && (text.front() == '\'' || text.front() == '"') && text.back() == text.front())
    return text.substr(1, text.size() - 2);
  return text;
}

}  // namespace

std::string nearest(std::string_view word, std::span<const std::string> known) {
  std::string best;
  size_t best_distance = std::min(std::max<size_t>(2, word.size() / 3) + 1, word.size());  // never every letter replaced
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) best_distance = distance, best = candidate;
  }
  return best;
}

std::string suggestion(std::string_view word, std::span<const std::string> known) {
  const std::string best = nearest(word, known);
  return best.empty() ? "" : fmt::format("; did you mean {}?", best);
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

double parse_number(std::string_view text, std::string_view what) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value))
    fail(ErrorCode::InvalidArgument, "{}: expected a number, found '{}'", what, text);
  return value;
}

int64_t parse_int(std::string_view text, std::string_view what) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size())
    fail(ErrorCode::InvalidArgument, "{}: expected an integer, found '{}'", what, text);
  return value;
}

int64_t parse_size_bytes(std::string_view text, int64_t plain_unit) {
  size_t digits = 0;
  while (digits < text.size() && (std::isdigit(static_cast<unsigned char>(text[digits])) || text[digits] == '.')) ++digits;
  std::string unit(text.substr(digits));
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (unit.size() > 1 && unit.back() == 'b') unit.pop_back();
  if (unit.size() > 1 && unit.back() == 'i') unit.pop_back();
  double scale = 0;
  if (unit.empty()) scale = static_cast<double>(plain_unit);
  if (unit == "b") scale = 1;
  if (unit == "k") scale = 1024;
  if (unit == "m") scale = 1024.0 * 1024;
  if (unit == "g") scale = 1024.0 * 1024 * 1024;
  if (scale == 0 || digits == 0)
    fail(ErrorCode::InvalidArgument, "expected a size such as 512M or 1G (units B, K, M, G), found '{}'", text);
  const double bytes = parse_number(text.substr(0, digits), "size") * scale;
  if (bytes > 0x1p62) fail(ErrorCode::InvalidArgument, "size '{}' is too large", text);
  return static_cast<int64_t>(bytes);
}

std::string format_bytes(int64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  const char* units[] = {"KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes) / 1024;
  int unit = 0;
  while (value >= 1024 && unit < 3) value /= 1024, ++unit;
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : 1, units[unit]);
}

Shape parse_shape(std::string_view text) {
  Shape shape;
  if (text.empty() || text == "scalar") return shape;
  for (const std::string& part : split(text, 'x')) {
    const int64_t dim = parse_int(part, fmt::format("shape '{}'", text));
    if (dim < 0) fail(ErrorCode::InvalidArgument, "shape '{}' has a negative dimension; write concrete sizes such as 1x3x224x224", text);
    shape.push_back(dim);
  }
  num_elements(shape);  // throws when absurd
  return shape;
}

std::string format_shape(const Shape& shape) { return shape.empty() ? "scalar" : fmt::format("{}", fmt::join(shape, "x")); }

NamedShapes parse_shapes(std::string_view text) {
  NamedShapes shapes;
  if (text.empty()) return shapes;
  for (const std::string& item : split(text, ',')) {
    const size_t colon = item.rfind(':');
    const std::string name = colon == std::string::npos ? "" : std::string(unquoted(std::string_view(item).substr(0, colon)));
    shapes.emplace_back(name, parse_shape(colon == std::string::npos ? std::string_view(item) : std::string_view(item).substr(colon + 1)));
  }
  return shapes;
}

bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return true;
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == name;
  if (name.substr(0, star) != pattern.substr(0, star)) return false;
  const std::string_view rest = pattern.substr(star + 1);
  if (rest.empty()) return true;
  for (size_t i = star; i <= name.size(); ++i)
    if (matches(rest, name.substr(i))) return true;
  return false;
}

const Shape* find_shape(const NamedShapes& shapes, std::string_view name) {
  for (const auto& [pattern, shape] : shapes)
    if (pattern == name) return &shape;
  for (const auto& [pattern, shape] : shapes)
    if (matches(pattern, name)) return &shape;
  return nullptr;
}

std::vector<OptimizationProfile> parse_profiles(const std::vector<std::string>& items) {
  std::vector<OptimizationProfile> profiles;
  for (const std::string& item : items) {
    const size_t colon = item.rfind(':');
    if (colon == std::string::npos)
      fail(ErrorCode::InvalidArgument, "profile '{}': expected INPUT:MIN,OPT,MAX such as ids:1x1,1x128,8x512", item);
    const std::vector<std::string> shapes = split(std::string_view(item).substr(colon + 1), ',');
    if (shapes.size() != 1 && shapes.size() != 3)
      fail(ErrorCode::InvalidArgument, "profile '{}': expected one shape or three (MIN,OPT,MAX), found {}", item, shapes.size());
    ShapeRange range{std::string(unquoted(std::string_view(item).substr(0, colon))), parse_shape(shapes[0]), {}, {}};
    range.opt = shapes.size() == 3 ? parse_shape(shapes[1]) : range.min;
    range.max = shapes.size() == 3 ? parse_shape(shapes[2]) : range.min;
    if (range.min.size() != range.opt.size() || range.opt.size() != range.max.size())
      fail(ErrorCode::InvalidArgument, "profile '{}': min, opt and max have different ranks", item);
    for (size_t i = 0; i < range.min.size(); ++i)
      if (range.min[i] > range.opt[i] || range.opt[i] > range.max[i])
        fail(ErrorCode::InvalidArgument, "profile '{}': dimension {} is not min <= opt <= max", item, i);
    const auto same_input = [&](const ShapeRange& other) { return other.input == range.input; };
    if (profiles.empty() || std::any_of(profiles.back().begin(), profiles.back().end(), same_input)) profiles.emplace_back();
    profiles.back().push_back(std::move(range));
  }
  return profiles;
}

}  // namespace tokamak::cli
