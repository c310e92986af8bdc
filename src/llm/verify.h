#pragma once
// Speculated tokens against the model's own distribution, one position at a time.

#include "llm/proposer.h"

namespace tokamak::llm {

struct Verdict {
  int32_t token;
  bool accepted;  // it is the proposed one
};

// Decides position `index` of the proposal given the model's logits there. Greedy: the model's own choice, accepted when it is the proposed
// one. Sampling: the proposal x is accepted with probability min(1, p(x) / q(x)), else the token is drawn from max(0, p - q), normalised,
// so that the result is distributed as p (Leviathan et al. 2023, arXiv:2211.17192, algorithm 1); a certain proposal has q(x) = 1. Throws as
// Sampler::sample. Keeps its scratch memory. One thread at a time.
class Verifier {
 public:
  explicit Verifier(Sampler& sampler) : sampler_(sampler) {}
  Verdict verify(std::span<const float> logits, const SamplingState& state, const Proposal& proposal, int index);

 private:
  int32_t draw_residual(const Distribution* q, int32_t proposed, double u);

  Sampler& sampler_;
  Distribution p_;
  std::vector<float> q_of_;  // [vocab] scattered q; zero between calls
};

}  // namespace tokamak::llm
