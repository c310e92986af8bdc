#pragma once
// StepModel over a compiled engine on the host: owns the KV cache and one ExecutionContext, pads batches to few distinct shapes.

#include <memory>

#include "llm/step_model.h"
#include "runtime/engine.h"

namespace tokamak::llm {

class EngineStepModel final : public StepModel {
 public:
  // Throws as make_step_model.
  explicit EngineStepModel(std::shared_ptr<const Engine> engine, const StepModelOptions& options = {});
  ~EngineStepModel() override;

  const ModelConfig& config() const override;
  int num_blocks() const override;
  void run(const StepBatch& batch) override;
  std::span<const float> logits(int row) const override;
  void copy_block(int src, int dst) override;

  StepMemory memory() const override;
  void set_profiler(Profiler* profiler) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tokamak::llm
