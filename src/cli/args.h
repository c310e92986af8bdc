#pragma once
// Reading the words of a command line: sizes, shapes, profiles, near misses.

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/engine.h"

namespace tokamak::cli {

// The entry of `known` nearest to `word` by edit distance, or "" when none is near enough to be a slip of the fingers.
std::string nearest(std::string_view word, std::span<const std::string> known);
// ", did you mean X?" or "".
std::string suggestion(std::string_view word, std::span<const std::string> known);

// "4096", "512K", "1.5G", "64MiB". A number without a unit counts `plain_unit` bytes. Throws InvalidArgument.
int64_t parse_size_bytes(std::string_view text, int64_t plain_unit = 1);
std::string format_bytes(int64_t bytes);  // "12.3 MiB"

// "1x3x224x224", "scalar" or "" (rank 0). Throws InvalidArgument.
Shape parse_shape(std::string_view text);
std::string format_shape(const Shape& shape);  // "1x3x224x224", "scalar"

// One name (possibly a `*` pattern; empty: the only input) and shape each.
using NamedShapes = std::vector<std::pair<std::string, Shape>>;

// "ids:1x128,mask:1x128"; names may hold colons and be quoted with '. A lone shape stands for a model's only input. Throws InvalidArgument.
NamedShapes parse_shapes(std::string_view text);

// Whether `name` matches `pattern`, in which `*` stands for any characters; an empty pattern matches all.
bool matches(std::string_view pattern, std::string_view name);
// The shape given for `name`: an exact name first, then patterns. Null when there is none.
const Shape* find_shape(const NamedShapes& shapes, std::string_view name);

// One item a word: "ids:1x1,1x128,8x512" (min, opt, max) or "ids:1x128" (all three). A name that comes again begins the next profile.
// Throws InvalidArgument.
std::vector<OptimizationProfile> parse_profiles(const std::vector<std::string>& items);

std::vector<std::string> split(std::string_view text, char separator);
// Throws InvalidArgument naming `what`.
double parse_number(std::string_view text, std::string_view what);
int64_t parse_int(std::string_view text, std::string_view what);

}  // namespace tokamak::cli
