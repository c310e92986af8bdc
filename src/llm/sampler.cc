#include "llm/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tokamak::llm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Not (value in range), so that NaN is out of range.
template <class T>
void expect(bool in_range, const char* name, T value, const char* accepted) {
  if (!in_range) fail(ErrorCode::InvalidArgument, "{} is {}, expected {}", name, value, accepted);
}

void expect_token(int32_t token, int vocab_size, const char* name) {
  if (token < 0 || token >= vocab_size)
    fail(ErrorCode::InvalidArgument, "{}: there is no token {}; the model has {} (0 to {})", name, token, vocab_size, vocab_size - 1);
}

bool has_penalties(const SamplingParams& p) { return p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0; }

}  // namespace

void validate(const SamplingParams& p, int vocab_size) {
  expect(p.temperature >= 0 && p.temperature < kInfinity, "temperature", p.temperature, "a number that is not negative");
  expect(p.top_k >= 0, "top_k", p.top_k, "0 (off) or more");
  expect(p.top_p > 0 && p.top_p <= 1, "top_p", p.top_p, "above 0 and at most 1");
  expect(p.min_p >= 0 && p.min_p <= 1, "min_p", p.min_p, "0 to 1");
  expect(p.repetition_penalty > 0 && p.repetition_penalty < kInfinity, "repetition_penalty", p.repetition_penalty, "a number above 0");
  expect(std::abs(p.presence_penalty) <= 2, "presence_penalty", p.presence_penalty, "-2 to 2");
  expect(std::abs(p.frequency_penalty) <= 2, "frequency_penalty", p.frequency_penalty, "-2 to 2");
  for (const auto& [token, bias] : p.logit_bias) {
    expect_token(token, vocab_size, "logit_bias");
    expect(bias < kInfinity, "logit_bias", bias, "a number, or -infinity to forbid the token");
  }
  expect(p.logprobs >= -1 && p.logprobs <= vocab_size, "logprobs", p.logprobs, "-1 (none) up to the size of the vocabulary");
  expect(p.prompt_logprobs >= -1 && p.prompt_logprobs <= vocab_size, "prompt_logprobs", p.prompt_logprobs,
         "-1 (none) up to the size of the vocabulary");
  expect(p.n >= 1, "n", p.n, "1 or more");
  expect(p.max_tokens >= 0, "max_tokens", p.max_tokens, "0 or more");
  expect(p.min_tokens >= 0 && p.min_tokens <= p.max_tokens, "min_tokens", p.min_tokens, "0 to max_tokens");
  for (const int32_t token : p.stop_token_ids) expect_token(token, vocab_size, "stop_token_ids");
  for (const std::string& text : p.stop)
    if (text.empty()) fail(ErrorCode::InvalidArgument, "stop: a stop string is empty");
}

SamplingState::SamplingState(const SamplingParams& params, std::span<const int32_t> eos_token_ids, std::span<const int32_t> prompt,
                             uint64_t seed, int index, std::unique_ptr<TokenMask> mask)
    : params_(&params), end_ids_(params.stop_token_ids), seed_(seed), index_(index), mask_(std::move(mask)) {
  if (!params.ignore_eos) end_ids_.insert(end_ids_.end(), eos_token_ids.begin(), eos_token_ids.end());
  if (has_penalties(params))
    for (const int32_t token : prompt) note(token, 0);
}

void SamplingState::note(int32_t token, int count) {
  const auto [found, fresh] = seen_index_.emplace(token, static_cast<int32_t>(seen_.size()));
  if (fresh) seen_.push_back({token, 0});
  seen_[found->second].in_answer += count;
}

void SamplingState::accept(int32_t token) {
  ++num_generated_;
  if (has_penalties(*params_)) note(token, 1);
  if (mask_) mask_->accept(token);
}

bool SamplingState::is_plain(int ahead) const {
  const SamplingParams& p = *params_;
  const bool withholds_end = num_generated_ + ahead < p.min_tokens && !end_ids_.empty();
  return !withholds_end && !mask_ && p.logit_bias.empty() && !has_penalties(p) && p.logprobs < 0;
}

bool SamplingState::is_plain_greedy() const {
  const SamplingParams& p = *params_;
  const bool withholds_end = num_generated_ < p.min_tokens && !end_ids_.empty();
  return is_greedy() && !withholds_end && !mask_ && p.logit_bias.empty() && !has_penalties(p);
}

TokenChoice SamplingState::choice(int ahead) const {
  const SamplingParams& p = *params_;
  return {p.temperature, p.top_k, p.top_p, p.min_p, seed_, index_, num_generated_ + ahead};
}

bool SamplingState::ends(int32_t token) const { return std::ranges::find(end_ids_, token) != end_ids_.end(); }

double Distribution::probability(int32_t token) const {
  if (covers_all()) return weights[token] / total;
  const auto found = std::ranges::find(ids, token);
  return found == ids.end() ? 0 : weights[found - ids.begin()] / total;
}

Sampler::Sampler(int vocab_size) : vocab_size_(vocab_size) {
  modified_.resize(vocab_size);
  allowed_.resize((vocab_size + 63) / 64);
}

// Everything up to the penalties; the row is copied only when something changes.
void Sampler::scan(std::span<const float> logits, const SamplingState& state) {
  const SamplingParams& p = state.params();
  const bool withholds_end = state.num_generated() < p.min_tokens && !state.end_ids_.empty();
  if (!withholds_end && !state.mask_ && p.logit_bias.empty() && !has_penalties(p)) return row_.scan(logits);

  std::ranges::copy(logits, modified_.begin());
  if (withholds_end)
    for (const int32_t token : state.end_ids_) modified_[token] = -kInfinity;
  if (state.mask_) {
    std::ranges::fill(allowed_, 0);
    state.mask_->fill(allowed_);
    for (size_t word = 0; word < allowed_.size(); ++word) {
      const auto first = modified_.begin() + static_cast<int64_t>(word) * 64;
      const int64_t count = std::min<int64_t>(64, modified_.end() - first);
      if (allowed_[word] == 0) std::fill_n(first, count, -kInfinity);
      else if (~allowed_[word] != 0)
        for (int64_t bit = 0; bit < count; ++bit)
          if (!(allowed_[word] >> bit & 1)) first[bit] = -kInfinity;
    }
  }
  for (const auto& [token, bias] : p.logit_bias) modified_[token] += bias;
  for (const auto& [token, in_answer] : state.seen_) {
    float& x = modified_[token];
    x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
    if (in_answer > 0) x -= static_cast<float>(in_answer) * p.frequency_penalty + p.presence_penalty;
  }
  row_.scan(modified_);
}

int32_t Sampler::greedy(std::span<const float> logits, const SamplingState& state) {
  scan(logits, state);
  return row_.argmax();
}

int32_t Sampler::sample(std::span<const float> logits, const SamplingState& state) {
  if (state.is_greedy()) return greedy(logits, state);
  distribution(logits, state, scratch_);
  return draw(scratch_, state.draw(Draw::Token));
}

void Sampler::distribution(std::span<const float> logits, const SamplingState& state, Distribution& out) {
  scan(logits, state);
  weigh(state.params(), out);
}

void Sampler::proposal(std::span<const float> logits, const SamplingState& state, Distribution& out) {
  row_.scan(logits);
  weigh(state.params(), out);
}

// Temperature, min_p, top_k and top_p of the scanned row.
void Sampler::weigh(const SamplingParams& p, Distribution& out) {
  const auto x = row_.logits();
  const float scale = 1 / p.temperature;
  out.ids.clear();
  if (!(scale < kInfinity)) {  // a temperature below the smallest normal number
    out.ids.assign(1, row_.argmax());
    out.weights.assign(1, 1);
    out.total = 1;
    return;
  }
  const auto weight = [&](int32_t id) { return std::exp((x[id] - row_.max()) * scale); };
  // p_i >= min_p * p_max, with both sides' logarithms.
  const float threshold = p.min_p > 0 ? row_.max() + std::log(p.min_p) * p.temperature : -kInfinity;
  const bool has_top_k = p.top_k > 0 && p.top_k < vocab_size_;
  if (has_top_k || p.min_p > 0) {
    std::span<int32_t> ids = has_top_k ? row_.top_k(p.top_k) : row_.at_least(threshold);
    std::ranges::sort(ids);
    out.weights.clear();
    out.total = 0;
    for (const int32_t id : ids) {
      if (x[id] < threshold) continue;
      out.ids.push_back(id);
      out.weights.push_back(weight(id));
      out.total += out.weights.back();
    }
    if (p.top_p < 1) cut_top_p(p.top_p, out.total, out);
    return;
  }
  out.weights.resize(x.size());
  out.block_sums.resize((x.size() + kSumBlock - 1) / kSumBlock);
  out.total = logits_functions().exp_weights(out.weights.data(), out.block_sums.data(), x.data(), std::ssize(x), row_.max(), scale);
  if (p.top_p >= 1) return;
  // The tokens that top_p keeps are nearly always within a short distance of the largest logit.
  const double whole = out.total;
  for (float distance = 4;; distance *= 2) {
    const bool all = distance > 64;
    const auto ids = row_.at_least(all ? -kInfinity : row_.max() - distance * p.temperature);
    double sum = 0;
    for (const int32_t id : ids) sum += out.weights[id];
    if (sum < p.top_p * whole && !all) continue;
    out.ids.assign(ids.begin(), ids.end());
    for (size_t i = 0; i < ids.size(); ++i) out.weights[i] = out.weights[ids[i]];  // ids ascend, so i <= ids[i]
    out.weights.resize(ids.size());
    out.total = sum;
    return cut_top_p(p.top_p, whole, out);
  }
}

// Keeps the likeliest ids whose weights together reach top_p of `total`, at least one; lower ids first among equals. Quickselect by weight:
// linear on average. The ids stay ascending.
void Sampler::cut_top_p(float top_p, double total, Distribution& out) {
  order_.clear();
  for (size_t i = 0; i < out.ids.size(); ++i) order_.emplace_back(-out.weights[i], out.ids[i]);
  double missing = top_p * total;
  size_t begin = 0, end = order_.size();
  while (end - begin > 1) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(order_.begin() + begin, order_.begin() + middle, order_.begin() + end);
    double upper = 0;
    for (size_t i = begin; i < middle; ++i) upper -= order_[i].first;
    if (upper >= missing) {
      end = middle;
    } else {
      missing -= upper;
      begin = middle;
    }
  }
  const auto border = order_[begin];
  size_t kept = 0;
  out.total = 0;
  for (size_t i = 0; i < out.ids.size(); ++i) {
    if (std::pair(-out.weights[i], out.ids[i]) > border) continue;
    out.ids[kept] = out.ids[i];
    out.weights[kept] = out.weights[i];
    out.total += out.weights[kept++];
  }
  out.ids.resize(kept);
  out.weights.resize(kept);
}

int32_t Sampler::draw(const Distribution& d, double u) {
  double target = u * d.total;
  size_t begin = 0, last = 0;
  if (d.covers_all()) {  // whole blocks first; the last one with any weight takes what rounding leaves over
    for (size_t block = 0; block < d.block_sums.size(); ++block) {
      if (!(d.block_sums[block] > 0)) continue;
      begin = block * kSumBlock;
      if (target < d.block_sums[block]) break;
      target -= d.block_sums[block];
    }
  }
  for (size_t i = begin; i < d.weights.size(); ++i) {
    if (!(d.weights[i] > 0)) continue;
    last = i;
    target -= d.weights[i];
    if (target < 0) break;
  }
  return d.covers_all() ? static_cast<int32_t>(last) : d.ids[last];
}

Logprobs Sampler::logprobs(std::span<const float> logits, int32_t token, int num_top) {
  row_.scan(logits);
  const double log_total = std::log(logits_functions().exp_sum(logits.data(), std::ssize(logits), row_.max())) + row_.max();
  const auto logprob = [&](int32_t id) { return static_cast<float>(logits[id] - log_total); };
  Logprobs out;
  out.logprob = logprob(token);
  if (num_top > 0) {
    const auto ids = row_.top_k(num_top);
    std::ranges::sort(ids, [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
    for (const int32_t id : ids) out.top.push_back({id, logprob(id)});
  }
  return out;
}

}  // namespace tokamak::llm
