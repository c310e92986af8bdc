#pragma once
// Where speculated tokens come from (speculative decoding: Leviathan et al. 2023, arXiv:2211.17192).

#include <memory>
#include <span>
#include <vector>

#include "llm/sampler.h"
#include "llm/scheduler.h"

namespace tokamak::llm {

// Guesses for what follows a sequence. When `distributions` has an entry for each token, token i was drawn from entry i; when it is empty
// the tokens are certain choices (greedy, or looked up).
struct Proposal {
  std::vector<int32_t> tokens;
  std::vector<Distribution> distributions;
  int num_distributions = 0;  // how many entries are of this step; the vector keeps its memory

  void clear() { tokens.clear(), num_distributions = 0; }
};

class Proposer {
 public:
  struct Slot {
    const Sequence* sequence;
    const SamplingState* sampling;
    int max_tokens;
    Proposal* proposal;  // empty before
  };

  virtual ~Proposer() = default;
  // Fills the proposals with up to max_tokens tokens each; none is fine.
  virtual void propose(std::span<const Slot> slots) = 0;
  // The sequence has ended or lost its blocks.
  virtual void forget(const Sequence* sequence) { (void)sequence; }
};

// Prompt lookup: what followed the latest earlier occurrence of the sequence's last `max` tokens, else of fewer, down to `min`.
class NGramProposer final : public Proposer {
 public:
  // Throws InvalidArgument unless 1 <= min <= max.
  NGramProposer(int min, int max);
  void propose(std::span<const Slot> slots) override;

 private:
  int min_, max_;
};

// A smaller model over the same vocabulary, with blocks of its own that follow the sequences': it catches up on tokens it has not seen, a
// limited number a step, and proposes for those sequences where it has. A sequence it has no blocks for gets no proposal.
class DraftProposer final : public Proposer {
 public:
  // Throws InvalidArgument when the vocabularies differ. `vocab_size` is the target's.
  DraftProposer(std::unique_ptr<StepModel> model, int vocab_size, int max_num_batched_tokens, bool prefix_cache);
  ~DraftProposer() override;
  void propose(std::span<const Slot> slots) override;
  void forget(const Sequence* sequence) override;

  int num_used_blocks() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tokamak::llm
