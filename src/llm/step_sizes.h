#pragma once
// Sizes that steps on a GPU are padded to: each set is a plan and a CUDA graph, so there are few.

#include <vector>

namespace tokamak::llm {

// Of the step graph's symbols; -1: not known yet.
struct StepSizes {
  int tokens = -1, rows = -1, seqs = -1;
  bool operator==(const StepSizes&) const = default;
};

// Sequences of a decoding step: every power of two up to 8, then multiples of 8 up to 64, of 32 up to 256, of 64.
int decode_bucket(int seqs);
// Tokens of a step with prompts: 16, then eight to an octave. Arithmetic takes the time, so at most an eighth is padding.
int mixed_bucket(int tokens);

// For a step of `tokens` new tokens of `seqs` sequences, of which `rows` get logits. A step is a decoding step when all three are equal,
// and kernels know one by tokens == seqs, which holds of no other. `max_seqs`: most sequences that steps have.
StepSizes padded_sizes(int tokens, int rows, int seqs, int max_seqs);
// The largest `seqs` that padded_sizes gives.
int padded_seqs(int max_seqs);
// The sizes of decoding steps of up to `max_seqs` sequences, and of steps that fill `max_tokens`, or a good part of them, with prompts
// beside decoding ones: what a busy engine runs. The largest first.
std::vector<StepSizes> usual_sizes(int max_tokens, int max_seqs);

}  // namespace tokamak::llm
