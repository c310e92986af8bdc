#pragma once
// StepModel over an engine for a GPU: the KV cache, the step's inputs and its logits stay on the device.

#include <memory>

#include "llm/step_model.h"
#include "runtime/engine.h"

namespace tokamak::llm {

// A step costs one kernel that fetches its arrays, one CUDA graph of its sizes' plan, one or two kernels that choose the tokens and write
// them to the host, and one wait for them. Steps are padded to few sizes (step_sizes.h), so that few graphs cover them; a padded sequence
// has no tokens in the cache and a padded token's slot is -1.
class CudaStepModel final : public StepModel {
 public:
  // Throws as make_step_model; Unsupported without a GPU.
  explicit CudaStepModel(std::shared_ptr<const Engine> engine, const StepModelOptions& options = {});
  ~CudaStepModel() override;

  const ModelConfig& config() const override;
  int num_blocks() const override;
  void run(const StepBatch& batch) override;
  std::span<const float> logits(int row) const override;  // copies a row to the host when first asked
  int32_t chosen(int row) const override;
  bool is_asynchronous() const override { return true; }
  void submit(const StepBatch& batch) override;
  std::span<const int32_t> take() override;
  StepTimes last_times() const override;
  void copy_block(int src, int dst) override;
  void warm_up() override;
  StepMemory memory() const override;
  void set_profiler(Profiler* profiler) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tokamak::llm
