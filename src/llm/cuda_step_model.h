#pragma once
// StepModel over an engine for a GPU: the KV cache, the step's inputs and its logits stay on the device.

#include <memory>

#include "llm/step_model.h"
#include "runtime/engine.h"

namespace tokamak::llm {

// A step costs one copy to the device (all index arrays are neighbours), one CUDA graph of the bucket's plan, one kernel for the rows'
// argmax and one read of the tokens. Decoding steps (one token a sequence) are padded to few batch sizes, so that few graphs cover them; a
// padded sequence has no tokens in the cache and its slot is -1.
class CudaStepModel final : public StepModel {
 public:
  // Throws as make_step_model; Unsupported without a GPU.
  explicit CudaStepModel(std::shared_ptr<const Engine> engine, const StepModelOptions& options = {});
  ~CudaStepModel() override;

  const ModelConfig& config() const override;
  int num_blocks() const override;
  void run(const StepBatch& batch) override;
  std::span<const float> logits(int row) const override;  // copies the step's logits to the host when first asked
  int32_t argmax(int row) const override;
  void copy_block(int src, int dst) override;
  StepMemory memory() const override;
  void set_profiler(Profiler* profiler) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tokamak::llm
