#pragma once
// The arrays of a step on their way to the GPU.

#include <array>
#include <string_view>
#include <vector>

#include "backends/cuda/device.h"
#include "llm/step_model.h"
#include "llm/step_sizes.h"
#include "runtime/execution_context.h"

namespace tokamak::llm {

// One buffer on the device holds every array, at addresses that stay, so that CUDA graphs stay good; one kernel brings a step's arrays
// there from one of kSlots pinned buffers. That kernel also puts in the tokens that the host does not know yet. One thread at a time.
class CudaStepInputs {
 public:
  static constexpr int kSlots = StepModel::kMaxInFlight;

  // Compiles; allocates with reserve().
  CudaStepInputs(const cuda::Context& code, int max_seqs, int blocks_per_seq);

  // Bytes on the device for steps of up to `tokens`.
  int64_t bytes(int tokens) const;
  // Makes room for such steps; nothing may be in flight when it grows. True: the arrays moved, and must be bound again.
  bool reserve(int tokens);
  int token_capacity() const { return token_capacity_; }

  // Names the arrays as inputs of `context`, in these sizes.
  void bind(ExecutionContext& context, const StepSizes& sizes);
  // For planning alone: the same with the arrays at `address`.
  void bind_nowhere(ExecutionContext& context, const StepSizes& sizes, std::byte* address);
  // Queues the step's arrays, padded: further tokens are in no slot, further sequences have none. `chosen`: the tokens of the step before,
  // on the device. Slot `slot` is read until the step is done.
  void queue(CUstream stream, int slot, const StepBatch& batch, const StepSizes& sizes, CUdeviceptr chosen);
  // On the device: the array of that input, and the batch's choices as cuda::SampleRow.
  CUdeviceptr array(std::string_view name) const;
  CUdeviceptr choices() const { return address(kChoices); }

 private:
  enum { kTokens, kPositions, kSlotMapping, kRows, kLengths, kStarts, kTables, kChoices, kNumRegions };
  static constexpr std::array<std::string_view, kNumRegions> kNames = {"token_ids", "positions",    "slot_mapping", "logit_rows",
                                                                       "seq_lens",  "query_starts", "block_tables", ""};
  CUdeviceptr address(int region) const { return arrays_.pointer() + static_cast<CUdeviceptr>(offsets_[region] * 4); }
  struct Piece {  // as in device/stage_step.cu
    int32_t to = 0, count = 0, width = 1, stride = 1;
  };
  struct Pieces {
    std::array<Piece, kNumRegions> at;
  };
  void bind(ExecutionContext& context, const StepSizes& sizes, std::byte* arrays);
  std::array<int64_t, kNumRegions + 1> offsets(int tokens) const;  // in words; the last is the end

  std::shared_ptr<cuda::Device> device_;
  cuda::Function stage_;
  int max_seqs_, blocks_per_seq_, token_capacity_ = 0;
  std::array<int64_t, kNumRegions + 1> offsets_{};
  cuda::Buffer arrays_;
  std::array<cuda::PinnedBuffer, kSlots> staging_;
  StepSizes bound_;
};

}  // namespace tokamak::llm
