#pragma once
// One step of a language model over a paged KV cache: the seam between LlmEngine (device-free) and whatever runs the model.

#include <cstdint>
#include <span>
#include <vector>

#include "llm/model_config.h"

namespace tokamak::llm {

// The new tokens of some sequences, flattened (ragged batch); the meaning of every array is docs/architecture.md, "The step graph".
// T = token_ids.size(), S = num_seqs. Nothing is padded: a StepModel pads as it needs.
struct StepBatch {
  std::vector<int32_t> token_ids;     // [T]
  std::vector<int32_t> positions;     // [T] 0-based position of each token in its sequence
  std::vector<int32_t> slot_mapping;  // [T] block * block_size + offset, -1: written nowhere
  std::vector<int32_t> block_tables;  // [S, blocks_per_seq] block numbers; entries past a sequence's blocks are not read
  std::vector<int32_t> seq_lens;      // [S] tokens in the cache after this step
  std::vector<int32_t> query_starts;  // [S + 1] first token of each sequence in token_ids; the last is T
  std::vector<int32_t> logit_rows;    // [R] ascending indices into token_ids whose logits are wanted; may be empty
  int num_seqs = 0;
  int blocks_per_seq = 0;

  void clear();  // keeps the memory
};

class StepModel {
 public:
  virtual ~StepModel() = default;
  virtual const ModelConfig& config() const = 0;
  virtual int num_blocks() const = 0;  // of the KV cache

  // Writes the new tokens' keys and values into the cache and computes logits. Throws Error; the cache is then undefined in the slots of
  // this batch, and only there. One thread at a time.
  virtual void run(const StepBatch& batch) = 0;
  // f32[vocab_size] for entry `row` of the last batch's logit_rows; valid until the next run().
  virtual std::span<const float> logits(int row) const = 0;
  // Copies block `src` over block `dst` in every layer.
  virtual void copy_block(int src, int dst) = 0;
};

}  // namespace tokamak::llm
