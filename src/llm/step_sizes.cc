#include "llm/step_sizes.h"

#include <algorithm>
#include <bit>
#include <initializer_list>

namespace tokamak::llm {
namespace {

int round_up(int n, int step) { return (n + step - 1) / step * step; }

}  // namespace

int decode_bucket(int n) {
  if (n <= 8) return static_cast<int>(std::bit_ceil(static_cast<unsigned>(n)));
  return round_up(n, n <= 64 ? 8 : n <= 256 ? 32 : 64);
}

int mixed_bucket(int n) {
  if (n <= 16) return 16;
  return round_up(n, std::max(16, static_cast<int>(std::bit_floor(static_cast<unsigned>(n - 1))) / 8));
}

int padded_seqs(int max_seqs) { return decode_bucket(max_seqs) + 1; }

// Beside the tokens' work, that of a padded row of logits or sequence is small: few sizes of each.
StepSizes padded_sizes(int tokens, int rows, int seqs, int max_seqs) {
  StepSizes sizes;
  if (tokens == seqs && rows == tokens) {
    sizes.tokens = sizes.rows = sizes.seqs = decode_bucket(tokens);
    return sizes;
  }
  const auto first_of = [](int n, std::initializer_list<int> choices, int otherwise) {
    for (const int choice : choices)
      if (n <= choice) return std::min(choice, otherwise);
    return otherwise;
  };
  sizes.tokens = mixed_bucket(tokens);
  // One row a sequence, but where proposals are verified or every token is scored.
  sizes.rows = std::min(sizes.tokens, first_of(rows, {0, 1, 16, 128}, rows <= max_seqs ? decode_bucket(max_seqs) : mixed_bucket(rows)));
  sizes.seqs = first_of(seqs, {1, 17}, padded_seqs(max_seqs));
  if (sizes.seqs == sizes.tokens) ++sizes.tokens;
  return sizes;
}

std::vector<StepSizes> usual_sizes(int max_tokens, int max_seqs) {
  std::vector<StepSizes> out;
  const auto add = [&](const StepSizes& sizes) {
    if (std::ranges::find(out, sizes) == out.end()) out.push_back(sizes);
  };
  if (max_tokens > max_seqs)
    for (int rows = max_seqs; rows >= 0; rows = rows > 1 ? rows / 2 : rows - 1)
      for (const int prompts : {16, 1, 0})  // that are not computed to their end
        if (const int seqs = std::min(rows + prompts, max_seqs); seqs > 0) add(padded_sizes(max_tokens, rows, seqs, max_seqs));
  // Steps that the cache or the arriving requests leave part of the budget to.
  for (int tokens = max_tokens; tokens > std::max(max_seqs, max_tokens / 4); --tokens)
    add(padded_sizes(tokens, max_seqs, max_seqs, max_seqs));
  for (int seqs = max_seqs; seqs >= 1; --seqs) add(padded_sizes(seqs, seqs, seqs, max_seqs));
  return out;
}

}  // namespace tokamak::llm
