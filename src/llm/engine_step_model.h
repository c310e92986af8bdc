#pragma once
// StepModel over a compiled engine on the host: owns the KV cache and one ExecutionContext, pads batches to few distinct shapes.

#include <memory>

#include "llm/step_model.h"
#include "runtime/engine.h"

namespace tokamak {
class Profiler;
}

namespace tokamak::llm {

struct StepModelOptions {
  int max_num_seqs = 64;             // most sequences in a batch
  int max_num_batched_tokens = 512;  // tokens a step usually has at most; longer batches work, each with a plan of its own
  int max_context_length = 0;        // tokens of one sequence; 0: the model's context_length
  int64_t kv_cache_bytes = 0;        // 0: what max_num_seqs full sequences need, but at most a quarter of the machine's memory
  int num_threads = 0;               // 0: the engine's own width
};

class EngineStepModel final : public StepModel {
 public:
  // Throws Unsupported when the engine is not a language model (inputs, dtypes or metadata are not those of docs/architecture.md; the
  // message names the first that differs), ResourceExhausted when kv_cache_bytes cannot hold one sequence (it names what would do).
  explicit EngineStepModel(std::shared_ptr<const Engine> engine, const StepModelOptions& options = {});
  ~EngineStepModel() override;

  const ModelConfig& config() const override;
  int num_blocks() const override;
  void run(const StepBatch& batch) override;
  std::span<const float> logits(int row) const override;
  void copy_block(int src, int dst) override;

  void set_profiler(Profiler* profiler);  // called for every node while set; null to stop
  int64_t kv_cache_bytes() const;         // reserved; physical pages are taken as blocks are first written
  int64_t arena_bytes() const;            // activations of the last step's plan

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tokamak::llm
