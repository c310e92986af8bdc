#ifdef TOKAMAK_CUDA
#include "llm/cuda_step_inputs.h"

#include <algorithm>
#include <cstring>

#include "backends/cuda/sampler.h"

namespace tokamak::llm {
namespace {

constexpr int64_t kAlignment = 64;  // in words: 256 bytes
constexpr int kChoiceWords = sizeof(cuda::SampleRow) / 4;

}  // namespace

CudaStepInputs::CudaStepInputs(const cuda::Context& code, int max_seqs, int blocks_per_seq)
    : device_(code.device()), max_seqs_(max_seqs), blocks_per_seq_(blocks_per_seq) {
  stage_ = code.function({"stage_step", cuda::device_file("stage_step.cu"), {fmt::format("PIECES={}", int{kNumRegions})}}, "stage_step");
}

std::array<int64_t, CudaStepInputs::kNumRegions + 1> CudaStepInputs::offsets(int tokens) const {
  const int64_t n = tokens, seqs = max_seqs_;
  const int64_t sizes[kNumRegions] = {n, n, n, n, seqs, seqs + 1, seqs * blocks_per_seq_, n * kChoiceWords};
  std::array<int64_t, kNumRegions + 1> out{};
  for (int r = 0; r < kNumRegions; ++r) out[r + 1] = out[r] + (sizes[r] + kAlignment - 1) / kAlignment * kAlignment;
  return out;
}

int64_t CudaStepInputs::bytes(int tokens) const { return offsets(tokens).back() * 4; }

bool CudaStepInputs::reserve(int tokens) {
  if (tokens <= token_capacity_) return false;
  token_capacity_ = tokens;
  offsets_ = offsets(tokens);
  arrays_ = cuda::Buffer();
  arrays_ = device_->allocate(bytes(tokens), "index arrays of a step");
  for (auto& staging : staging_) staging = cuda::PinnedBuffer(bytes(tokens));
  bound_ = {};
  return true;
}

void CudaStepInputs::bind(ExecutionContext& context, const StepSizes& sizes) { bind(context, sizes, arrays_.data()); }

void CudaStepInputs::bind_nowhere(ExecutionContext& context, const StepSizes& sizes, std::byte* address) {
  bind(context, sizes, address);
  bound_ = {};
}

void CudaStepInputs::bind(ExecutionContext& context, const StepSizes& sizes, std::byte* arrays) {
  const auto set = [&](int region, Shape shape) {
    context.set_input(kNames[region], Tensor::view(DType::I32, std::move(shape), arrays + offsets_[region] * 4), Place::Device);
  };
  if (sizes.tokens != bound_.tokens)
    for (const int region : {kTokens, kPositions, kSlotMapping}) set(region, {sizes.tokens});
  if (sizes.rows != bound_.rows) set(kRows, {sizes.rows});
  if (sizes.seqs != bound_.seqs) {
    set(kTables, {sizes.seqs, blocks_per_seq_});
    set(kLengths, {sizes.seqs});
    set(kStarts, {sizes.seqs + 1});
  }
  bound_ = sizes;
}

void CudaStepInputs::queue(CUstream stream, int slot, const StepBatch& batch, const StepSizes& sizes, CUdeviceptr chosen) {
  auto* const begin = reinterpret_cast<int32_t*>(staging_[slot].data());
  int32_t* next = begin;
  Pieces pieces;
  const auto add = [&](int region, const std::vector<int32_t>& from, int padded, int32_t padding) {
    next = std::fill_n(std::ranges::copy(from, next).out, padded - std::ssize(from), padding);
    pieces.at[region] = {static_cast<int32_t>(offsets_[region]), padded, std::max(padded, 1), 0};
  };
  add(kTokens, batch.token_ids, sizes.tokens, 0);
  add(kPositions, batch.positions, sizes.tokens, 0);
  add(kSlotMapping, batch.slot_mapping, sizes.tokens, -1);
  add(kRows, batch.logit_rows, sizes.rows, 0);
  add(kLengths, batch.seq_lens, sizes.seqs, 0);
  add(kStarts, batch.query_starts, sizes.seqs + 1, static_cast<int32_t>(batch.token_ids.size()));
  next = std::ranges::copy(batch.block_tables, next).out;
  pieces.at[kTables] = {static_cast<int32_t>(offsets_[kTables]), static_cast<int32_t>(batch.block_tables.size()),
                        std::max(batch.blocks_per_seq, 1), blocks_per_seq_};
  pieces.at[kChoices] = {static_cast<int32_t>(offsets_[kChoices]), 0, 1, 0};
  if (std::ranges::any_of(batch.choices, [](const TokenChoice& c) { return c.temperature > 0; })) {
    for (size_t r = 0; r < batch.choices.size(); ++r) {
      const TokenChoice& c = batch.choices[r];
      cuda::SampleRow row;
      row.seed = c.seed, row.position = c.position, row.index = c.index, row.row = static_cast<int32_t>(r);
      row.temperature = c.temperature, row.top_k = c.top_k, row.top_p = c.top_p, row.min_p = c.min_p;
      std::memcpy(next, &row, sizeof(row));
      next += kChoiceWords;
    }
    const auto count = static_cast<int32_t>(batch.choices.size()) * kChoiceWords;
    pieces.at[kChoices].count = pieces.at[kChoices].width = count;
  }
  const auto total = static_cast<int32_t>(next - begin);
  stage_.launch(stream, {.grid = {static_cast<unsigned>((total + 255) / 256)}, .block = {256}, .overlap = true}, begin, arrays_.pointer(),
                pieces, total, chosen);
}

CUdeviceptr CudaStepInputs::array(std::string_view name) const {
  return address(static_cast<int>(std::ranges::find(kNames, name) - kNames.begin()));
}

}  // namespace tokamak::llm
#endif
