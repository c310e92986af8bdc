#pragma once
// Tokens from logits on the device: the parameters of tokamak::llm::SamplingParams that need nothing but the row, in their order. Draws are
// those of llm/random.h, so that a seed gives the same token as on the CPU but where rounding decides.

#include <span>

#include "backends/cuda/device.h"

namespace tokamak::cuda {

// As in device/sample.cu.
struct SampleRow {
  uint64_t seed = 0;
  int64_t position = 0;  // of the token drawn, in its answer
  int32_t index = 0;     // of the answer among those of a prompt
  int32_t row = 0;       // of the logits
  int32_t top_k = 0;     // 0: all
  int32_t first_edit = 0, num_edits = 0;
  float temperature = 0;  // 0: the largest, the lowest id among equals
  float top_p = 1, min_p = 0;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  int32_t unused = 0;
};
// What changes one logit before anything else: the bias (-infinity forbids the token), then, of tokens of the prompt or answer, penalties.
// A row names a token once.
struct TokenEdit {
  int32_t token = 0;
  int32_t is_seen = 0;    // in prompt or answer
  int32_t in_answer = 0;  // how often
  float bias = 0;
  float saved = 0;  // scratch
};

// One at a time and on one stream: the buffers are its own.
class DeviceSampler {
 public:
  // Compiles for vocabularies of `vocab_size`. The context must have a device.
  DeviceSampler(const Context& context, int vocab_size, int max_rows, int max_edits);

  // Queues the draw of a token for each of `rows` (at most max_rows; their edits index `edits`, at most max_edits) from device `logits`
  // [_, vocab_size] f32, and the copy of the tokens to the host. The logits are afterwards what they were. Parameters are taken over before
  // it returns, once the sampling before has been read.
  void run(CUstream stream, float* logits, std::span<const SampleRow> rows, std::span<const TokenEdit> edits = {});
  // The same for `num_rows` rows without edits that are on the device already, into arrays of the caller's: on the device, and pinned.
  // Waits for nothing.
  void queue(CUstream stream, float* logits, CUdeviceptr rows, int num_rows, CUdeviceptr tokens, int32_t* host_tokens) const;

  // Of the last run, when the stream has reached its end: a token a row; -1 when a logit is NaN or infinite, or no token is allowed.
  std::span<const int32_t> tokens() const { return {reinterpret_cast<const int32_t*>(host_tokens_.data()), num_rows_}; }

 private:
  Function sample_;
  int max_rows_, max_edits_;
  size_t num_rows_ = 0;
  Buffer rows_, edits_, tokens_;
  PinnedBuffer host_rows_, host_edits_, host_tokens_;
  std::unique_ptr<Event> uploaded_;
};

}  // namespace tokamak::cuda
