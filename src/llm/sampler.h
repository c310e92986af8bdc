#pragma once
// From a row of logits to a token: SamplingParams' order of operations, without ever sorting the vocabulary.

#include <memory>
#include <unordered_map>

#include "llm/logits.h"
#include "llm/random.h"
#include "llm/step_model.h"
#include "tokamak/llm.h"

namespace tokamak::llm {

// Throws InvalidArgument naming the parameter, what it is and what is accepted.
void validate(const SamplingParams& params, int vocab_size);

// What one answer's sampling remembers. `params` must outlive it.
class SamplingState {
 public:
  SamplingState(const SamplingParams& params, std::span<const int32_t> eos_token_ids, std::span<const int32_t> prompt, uint64_t seed,
                int index, std::unique_ptr<TokenMask> mask);
  SamplingState(SamplingState&&) = default;

  // The token becomes part of the answer.
  void accept(int32_t token);

  const SamplingParams& params() const { return *params_; }
  bool is_greedy() const { return params_->temperature == 0; }
  // The next token is the one with the largest logit, whatever the logits are.
  bool is_plain_greedy() const;
  // The token `ahead` places further on needs nothing but its logits to be chosen, neither the tokens before it nor the host: no mask, no
  // penalties or biases, no end that is withheld, no log-probabilities.
  bool is_plain(int ahead) const;
  TokenChoice choice(int ahead) const;  // then how
  int num_generated() const { return num_generated_; }
  bool has_mask() const { return mask_ != nullptr; }
  bool ends(int32_t token) const;  // eos (unless ignored) or one of stop_token_ids
  double draw(Draw purpose) const { return uniform(seed_, index_, num_generated_, purpose); }
  double draw(Draw purpose, int ahead) const { return uniform(seed_, index_, num_generated_ + ahead, purpose); }

 private:
  friend class Sampler;
  struct Seen {
    int32_t token;
    int32_t in_answer;
  };
  void note(int32_t token, int count);

  const SamplingParams* params_;
  std::vector<int32_t> end_ids_;
  uint64_t seed_;
  int index_;
  std::unique_ptr<TokenMask> mask_;
  int num_generated_ = 0;
  std::vector<Seen> seen_;  // distinct tokens of prompt and answer; only kept for penalties
  std::unordered_map<int32_t, int32_t> seen_index_;
};

// Unnormalised probabilities: of `ids`, or of the whole vocabulary when `ids` is empty.
struct Distribution {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<double> block_sums;  // of each kSumBlock weights, when it covers the whole vocabulary
  double total = 0;

  double probability(int32_t token) const;  // O(number of ids)
  bool covers_all() const { return ids.empty(); }
};

// Reads one row after another; keeps its scratch memory. One thread at a time.
class Sampler {
 public:
  explicit Sampler(int vocab_size);

  // All throw InvalidArgument when the logits are NaN or infinite or nothing is allowed, and whatever a TokenMask throws. The state is not
  // changed: call accept() with the token.
  int32_t sample(std::span<const float> logits, const SamplingState& state);
  int32_t greedy(std::span<const float> logits, const SamplingState& state);
  // Needs temperature > 0.
  void distribution(std::span<const float> logits, const SamplingState& state, Distribution& out);
  // As the proposal of a draft: temperature, min_p, top_k and top_p only.
  void proposal(std::span<const float> logits, const SamplingState& state, Distribution& out);
  int32_t draw(const Distribution& distribution, double u);

  // Of the raw logits.
  Logprobs logprobs(std::span<const float> logits, int32_t token, int num_top);

 private:
  void scan(std::span<const float> logits, const SamplingState& state);
  void weigh(const SamplingParams& params, Distribution& out);
  void cut_top_p(float top_p, double total, Distribution& out);

  int vocab_size_;
  LogitsRow row_;
  std::vector<float> modified_;
  std::vector<uint64_t> allowed_;
  std::vector<std::pair<float, int32_t>> order_;
  Distribution scratch_;
};

}  // namespace tokamak::llm
