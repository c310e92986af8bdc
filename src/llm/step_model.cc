#include "llm/step_model.h"

#include "base/error.h"

namespace tokamak::llm {

void StepBatch::clear() {
  for (auto* array : {&token_ids, &positions, &slot_mapping, &block_tables, &seq_lens, &query_starts, &logit_rows}) array->clear();
  choices.clear();
  num_seqs = blocks_per_seq = 0;
}

void StepModel::submit(const StepBatch&) { fail(ErrorCode::Unsupported, "this model has no asynchronous steps"); }

std::span<const int32_t> StepModel::take() { fail(ErrorCode::Unsupported, "this model has no asynchronous steps"); }

}  // namespace tokamak::llm
