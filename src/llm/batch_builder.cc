#include "llm/batch_builder.h"

#include <algorithm>

namespace tokamak::llm {

void BatchBuilder::clear() {
  batch_.clear();
  batch_.query_starts.push_back(0);
  tables_.clear();
}

int BatchBuilder::add(std::span<const int32_t> tokens, int first, int count, std::span<const int32_t> more, std::span<const int32_t> blocks,
                      int num_rows) {
  const int total = count + static_cast<int>(more.size());
  for (int i = 0; i < total; ++i) {
    const int position = first + i;
    batch_.token_ids.push_back(i < count ? tokens[position] : more[i - count]);
    batch_.positions.push_back(position);
    batch_.slot_mapping.push_back(blocks[position / block_size_] * block_size_ + position % block_size_);
  }
  const int first_row = static_cast<int>(batch_.logit_rows.size());
  for (int i = 0; i < num_rows; ++i) batch_.logit_rows.push_back(num_tokens() - num_rows + i);
  batch_.seq_lens.push_back(first + total);
  batch_.query_starts.push_back(num_tokens());
  tables_.push_back(blocks);
  ++batch_.num_seqs;
  return first_row;
}

const StepBatch& BatchBuilder::finish() {
  size_t width = 1;
  for (const auto& table : tables_) width = std::max(width, table.size());
  batch_.blocks_per_seq = static_cast<int>(width);
  batch_.block_tables.assign(width * tables_.size(), 0);
  for (size_t s = 0; s < tables_.size(); ++s) std::ranges::copy(tables_[s], batch_.block_tables.begin() + s * width);
  return batch_;
}

}  // namespace tokamak::llm
