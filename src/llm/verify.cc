#include "llm/verify.h"

#include <algorithm>

namespace tokamak::llm {

Verdict Verifier::verify(std::span<const float> logits, const SamplingState& state, const Proposal& proposal, int index) {
  const int32_t proposed = proposal.tokens[index];
  if (state.is_greedy()) {
    const int32_t token = sampler_.greedy(logits, state);
    return {token, token == proposed};
  }
  sampler_.distribution(logits, state, p_);
  const Distribution* q = index < proposal.num_distributions ? &proposal.distributions[index] : nullptr;
  const double p_x = p_.probability(proposed), q_x = q ? q->probability(proposed) : 1;
  if (state.draw(Draw::Accept) * q_x < p_x) return {proposed, true};
  q_of_.resize(logits.size());
  return {draw_residual(q, proposed, state.draw(Draw::Residual)), false};
}

// Turns p_ into the residual and draws from it.
int32_t Verifier::draw_residual(const Distribution* q, int32_t proposed, double u) {
  const auto each_q = [&](auto f) {
    if (q == nullptr) return f(proposed, 1.0f);
    for (size_t i = 0; i < q->weights.size(); ++i)
      f(q->covers_all() ? static_cast<int32_t>(i) : q->ids[i], static_cast<float>(q->weights[i] / q->total));
  };
  each_q([&](int32_t id, float probability) { q_of_[id] = probability; });
  const double scale = 1 / p_.total;
  p_.total = 0;
  if (p_.covers_all()) p_.block_sums.assign(p_.block_sums.size(), 0);
  for (size_t i = 0; i < p_.weights.size(); ++i) {
    const int32_t id = p_.covers_all() ? static_cast<int32_t>(i) : p_.ids[i];
    const float rest = std::max(0.0f, static_cast<float>(p_.weights[i] * scale) - q_of_[id]);
    p_.weights[i] = rest;
    p_.total += rest;
    if (p_.covers_all()) p_.block_sums[i / kSumBlock] += rest;
  }
  each_q([&](int32_t id, float) { q_of_[id] = 0; });
  // Rounding can leave nothing when p equals q; the proposal was then refused by rounding alone.
  return p_.total > 0 ? sampler_.draw(p_, u) : proposed;
}

}  // namespace tokamak::llm
