#pragma once
// One step of a language model over a paged KV cache: the seam between LlmEngine (device-free) and whatever runs the model.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "llm/model_config.h"

namespace tokamak {
class Communicator;
class Engine;
class Profiler;
}  // namespace tokamak

namespace tokamak::llm {

// How the token behind a row of logits is chosen on the model's device: SamplingParams' fields of the same names, and the random number
// that llm/random.h gives for the rest.
struct TokenChoice {
  float temperature = 0;  // 0: the largest, the lowest id among equals
  int32_t top_k = 0;
  float top_p = 1, min_p = 0;
  uint64_t seed = 0;
  int32_t index = 0;
  int64_t position = 0;
};

// The token that the step before will choose for its logit row `row`, in the place of a token id that the host does not know yet.
constexpr int32_t unknown_token(int row) { return -1 - row; }

// The new tokens of some sequences, flattened (ragged batch); the meaning of every array is docs/architecture.md, "The step graph".
// T = token_ids.size(), S = num_seqs. Nothing is padded: a StepModel pads as it needs.
struct StepBatch {
  std::vector<int32_t> token_ids;     // [T]; for submit() also unknown_token(row)
  std::vector<int32_t> positions;     // [T] 0-based position of each token in its sequence
  std::vector<int32_t> slot_mapping;  // [T] block * block_size + offset, -1: written nowhere
  std::vector<int32_t> block_tables;  // [S, blocks_per_seq] block numbers; entries past a sequence's blocks are not read
  std::vector<int32_t> seq_lens;      // [S] tokens in the cache after this step
  std::vector<int32_t> query_starts;  // [S + 1] first token of each sequence in token_ids; the last is T
  std::vector<int32_t> logit_rows;    // [R] ascending indices into token_ids whose logits are wanted; may be empty
  std::vector<TokenChoice> choices;   // [R]; for run() none, or [R]
  int num_seqs = 0;
  int blocks_per_seq = 0;

  void clear();  // keeps the memory
};

struct StepModelOptions {
  int max_num_seqs = 64;             // most sequences in a batch
  int max_num_batched_tokens = 512;  // tokens a step usually has at most; longer batches work, each with a plan of its own
  int max_context_length = 0;        // tokens of one sequence; 0: the model's context_length
  // 0: what max_num_seqs full sequences need, but at most a quarter of the machine's memory, or of a GPU what the rest leaves
  // (cache_budget.h)
  int64_t kv_cache_bytes = 0;
  int num_threads = 0;                         // 0: the engine's own width
  std::shared_ptr<Communicator> communicator;  // of an engine that is one rank of a split model; all ranks run the same batches
};

// In bytes, on the device that the model runs on.
struct StepMemory {
  int64_t kv_cache_bytes = 0;  // reserved; on the host, physical pages are taken as blocks are first written
  int64_t arena_bytes = 0;     // activations and workspace: on the host of the last step's plan, on a GPU of the largest usual step's
  // On a GPU only:
  int64_t weights_bytes = 0;  // that this model was the first to need
  int64_t other_bytes = 0;    // index arrays, tokens, values made for the shapes
  int64_t used_bytes = 0;     // by which the free memory has shrunk since the model was made: code, graphs and other programs included
  int64_t planned_bytes() const { return kv_cache_bytes + arena_bytes + weights_bytes + other_bytes; }
};

// On the device's own clock.
struct StepTimes {
  double step_ms = 0;  // from the first to the last of a step's work
  double gap_ms = 0;   // without a step before it: since the last one
};

class StepModel {
 public:
  virtual ~StepModel() = default;
  virtual const ModelConfig& config() const = 0;
  virtual int num_blocks() const = 0;  // of the KV cache

  // Writes the new tokens' keys and values into the cache and computes logits. Throws Error; the cache is then undefined in the slots of
  // this batch, and only there. One thread at a time.
  virtual void run(const StepBatch& batch) = 0;
  // f32[vocab_size] for entry `row` of the last batch's logit_rows; valid until the next run().
  virtual std::span<const float> logits(int row) const = 0;
  // The token chosen for those logits as the batch's choices say (without choices: of the largest, the lowest id among equals) where the
  // model finds it on its device; -1: look at logits(row). All of them are then finite.
  virtual int32_t chosen(int row) const {
    (void)row;
    return -1;
  }

  // The asynchronous form, where the model has one: submit() queues a step, take() waits for the oldest that was not taken and gives its
  // tokens, one for each of the batch's logit_rows, chosen as its `choices` say; -1: a logit is NaN or infinite (a step that was submitted
  // with it computes something for that sequence). Valid until the next but
  // one submit(). At most kMaxInFlight steps are in flight. A step's input may be what the step submitted just before it chooses
  // (unknown_token), taken or not. Steps and block copies are carried out in the order of the calls, so a block may be given to another
  // sequence as soon as the last step that uses it is submitted. run() only when nothing is in flight; logits() and chosen() are of run()
  // alone. Both throw Error: submit() when nothing was queued, take() for the step it took.
  static constexpr int kMaxInFlight = 2;
  virtual bool is_asynchronous() const { return false; }
  virtual void submit(const StepBatch& batch);
  virtual std::span<const int32_t> take();

  // Of the last run() or take(), where the model measures them.
  virtual StepTimes last_times() const { return {}; }

  // Copies block `src` over block `dst` in every layer.
  virtual void copy_block(int src, int dst) = 0;

  // Makes ready what the first step of each size would wait for (plans, CUDA graphs), for decoding steps of every size and for steps that
  // fill max_num_batched_tokens. Only when nothing is in flight.
  virtual void warm_up() {}

  virtual StepMemory memory() const { return {}; }
  virtual void set_profiler(Profiler* profiler) { (void)profiler; }  // called for every node while set; null to stop
};

// The model of an engine, on the device that the engine is for. Throws Unsupported when the engine is not a language model (inputs, dtypes
// or metadata are not those of docs/architecture.md; the message names the first that differs), ResourceExhausted when kv_cache_bytes
// cannot hold one sequence (it names what would do).
std::unique_ptr<StepModel> make_step_model(std::shared_ptr<const Engine> engine, const StepModelOptions& options = {});

}  // namespace tokamak::llm
