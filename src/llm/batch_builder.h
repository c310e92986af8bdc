#pragma once
// Sequences to a StepBatch.

#include "llm/step_model.h"

namespace tokamak::llm {

// Collects the new tokens of sequences one by one; keeps its memory from step to step.
class BatchBuilder {
 public:
  explicit BatchBuilder(int block_size) : block_size_(block_size) {}

  void clear();
  // Tokens [first, first + count) of `tokens`, then `more`, of the sequence whose blocks are `blocks`; logits for the last `num_rows` of
  // them. Returns the first of its logit rows.
  int add(std::span<const int32_t> tokens, int first, int count, std::span<const int32_t> more, std::span<const int32_t> blocks,
          int num_rows);
  // How the token of the last row added is chosen.
  void choose(const TokenChoice& choice) { batch_.choices.push_back(choice); }
  // Lays out the block tables; valid until the next clear(). `blocks` given to add() must still be there.
  const StepBatch& finish();
  int num_tokens() const { return static_cast<int>(batch_.token_ids.size()); }
  int num_rows() const { return static_cast<int>(batch_.logit_rows.size()); }

 private:
  int block_size_;
  StepBatch batch_;
  std::vector<std::span<const int32_t>> tables_;
};

}  // namespace tokamak::llm
