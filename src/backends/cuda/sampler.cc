#include "backends/cuda/sampler.h"

#include <cstring>

#include "base/error.h"

namespace tokamak::cuda {

DeviceSampler::DeviceSampler(const Context& context, int vocab_size, int max_rows, int max_edits)
    : max_rows_(max_rows), max_edits_(max_edits) {
  sample_ = context.function({"sample", device_file("sample.cu"), {fmt::format("SIZE={}", vocab_size)}}, "sample");
  if (!context.device()) return;
  Device& device = *context.device();
  const auto row_bytes = static_cast<int64_t>(sizeof(SampleRow)) * max_rows,
             edit_bytes = static_cast<int64_t>(sizeof(TokenEdit)) * max_edits;
  rows_ = device.allocate(row_bytes, "sampling"), edits_ = device.allocate(edit_bytes, "sampling");
  tokens_ = device.allocate(int64_t{4} * max_rows, "sampling");
  host_rows_ = PinnedBuffer(row_bytes), host_edits_ = PinnedBuffer(edit_bytes), host_tokens_ = PinnedBuffer(int64_t{4} * max_rows);
  uploaded_ = std::make_unique<Event>(false);
}

void DeviceSampler::run(CUstream stream, float* logits, std::span<const SampleRow> rows, std::span<const TokenEdit> edits) {
  if (rows.size() > static_cast<size_t>(max_rows_) || edits.size() > static_cast<size_t>(max_edits_))
    fail(ErrorCode::InvalidArgument, "{} rows and {} edits to sample, at most {} and {}", rows.size(), edits.size(), max_rows_, max_edits_);
  num_rows_ = rows.size();
  if (rows.empty()) return;
  uploaded_->synchronize();  // the last run's parameters have left pinned memory
  std::memcpy(host_rows_.data(), rows.data(), rows.size_bytes());
  check(driver().cuMemcpyHtoDAsync(rows_.pointer(), host_rows_.data(), rows.size_bytes(), stream), "sampling parameters");
  if (!edits.empty()) {
    std::memcpy(host_edits_.data(), edits.data(), edits.size_bytes());
    check(driver().cuMemcpyHtoDAsync(edits_.pointer(), host_edits_.data(), edits.size_bytes(), stream), "sampling parameters");
  }
  uploaded_->record(stream);
  sample_.launch(stream, {.grid = {static_cast<unsigned>(rows.size())}, .block = {1024}, .overlap = true}, logits, rows_.pointer(),
                 edits_.pointer(), tokens_.pointer(), host_tokens_.data());
}

void DeviceSampler::queue(CUstream stream, float* logits, CUdeviceptr rows, int num_rows, CUdeviceptr tokens, int32_t* host_tokens) const {
  sample_.launch(stream, {.grid = {static_cast<unsigned>(num_rows)}, .block = {1024}, .overlap = true}, logits, rows, CUdeviceptr{0},
                 tokens, host_tokens);
}

}  // namespace tokamak::cuda
