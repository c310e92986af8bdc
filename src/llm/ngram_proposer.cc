#include <algorithm>

#include "llm/proposer.h"

namespace tokamak::llm {

NGramProposer::NGramProposer(int min, int max) : min_(min), max_(max) {
  if (min < 1 || max < min) fail(ErrorCode::InvalidArgument, "n-grams of {} to {} tokens, expected 1 <= ngram_min <= ngram_max", min, max);
}

// One pass from the end: the longest match of the suffix at each place; the first to reach max_ wins, else the longest, latest.
void NGramProposer::propose(std::span<const Slot> slots) {
  for (const Slot& slot : slots) {
    const auto& tokens = slot.sequence->tokens;
    const int size = slot.sequence->size();
    int best = 0, best_end = 0;
    for (int end = size - 1; end >= min_ && best < max_; --end) {  // the match ends before `end`, which it proposes
      if (tokens[end - 1] != tokens[size - 1]) continue;
      int length = 1;
      while (length < max_ && length < end && tokens[end - 1 - length] == tokens[size - 1 - length]) ++length;
      if (length > best) best = length, best_end = end;
    }
    if (best < min_) continue;
    // Past the end it repeats itself, as an overlapping copy in LZ77 does: a loop of any period is proposed in full.
    auto& proposed = slot.proposal->tokens;
    for (int i = best_end; i < best_end + slot.max_tokens; ++i) proposed.push_back(i < size ? tokens[i] : proposed[i - size]);
  }
}

}  // namespace tokamak::llm
