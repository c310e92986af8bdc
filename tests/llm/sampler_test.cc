#include "llm/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "backends/cpu/cpu_features.h"
#include "llm/verify.h"

namespace tokamak::llm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::mt19937& random, int n, float spread = 3) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(n);
  for (auto& x : logits) x = normal(random);
  return logits;
}

SamplingState state_of(const SamplingParams& params, const std::vector<int32_t>& prompt = {}, uint64_t seed = 1,
                       const std::vector<int32_t>& eos = {}) {
  return SamplingState(params, eos, prompt, seed, 0, nullptr);
}

// The order of operations written plainly, with a full sort: probability of every token.
std::vector<double> reference(std::vector<float> x, const SamplingParams& p) {
  const auto n = std::ssize(x);
  for (auto& v : x) v /= p.temperature;
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int a, int b) { return x[a] > x[b]; });
  std::vector<double> w(n);
  for (int i = 0; i < n; ++i) w[i] = std::exp(double{x[i]} - x[order[0]]);
  for (int i = 0; i < n; ++i)
    if (w[i] < p.min_p) w[i] = 0;
  if (p.top_k > 0)
    for (int i = p.top_k; i < n; ++i) w[order[i]] = 0;
  const double total = std::accumulate(w.begin(), w.end(), 0.0);
  double reached = 0;
  for (int i = 0; i < n; ++i) {
    if (reached >= p.top_p * total && p.top_p < 1) w[order[i]] = 0;
    reached += w[order[i]];
  }
  const double kept = std::accumulate(w.begin(), w.end(), 0.0);
  for (auto& v : w) v /= kept;
  return w;
}

std::vector<double> dense(const Distribution& d, int n) {
  std::vector<double> p(n);
  if (d.covers_all())
    for (int i = 0; i < n; ++i) p[i] = d.weights[i] / d.total;
  for (size_t i = 0; i < d.ids.size(); ++i) p[d.ids[i]] = d.weights[i] / d.total;
  return p;
}

TEST(Sampler, DistributionsEqualThePlainDefinition) {
  std::mt19937 random(1);
  Distribution d;
  for (const int n : {1, 7, 64, 1000, 5003}) {
    Sampler sampler(n);
    for (int round = 0; round < 60; ++round) {
      const auto logits = random_logits(random, n, round % 3 == 0 ? 0.3f : 4.0f);
      SamplingParams p;
      p.temperature = std::array{1.0f, 0.5f, 2.5f, 0.05f}[random() % 4];
      if (random() % 2) p.top_k = 1 + static_cast<int>(random() % (random() % 2 ? 5 : n));
      if (random() % 2) p.top_p = std::array{0.9f, 0.5f, 0.999f, 0.01f}[random() % 4];
      if (random() % 3 == 0) p.min_p = std::array{0.1f, 0.5f, 1.0f, 0.001f}[random() % 4];
      sampler.distribution(logits, state_of(p), d);
      const auto expected = reference(logits, p), actual = dense(d, n);
      for (int i = 0; i < n; ++i)
        ASSERT_NEAR(actual[i], expected[i], 1e-4) << "n " << n << " k " << p.top_k << " p " << p.top_p << " min_p " << p.min_p;
    }
  }
}

TEST(Sampler, EqualLogitsKeepTheLowestIds) {
  const std::vector<float> logits(300, 1.5f);
  Sampler sampler(300);
  Distribution d;
  SamplingParams p;
  p.top_k = 7;
  sampler.distribution(logits, state_of(p), d);
  EXPECT_EQ(d.ids, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6}));
  p.top_k = 0;
  p.top_p = 0.01f;
  sampler.distribution(logits, state_of(p), d);
  EXPECT_EQ(d.ids, (std::vector<int32_t>{0, 1, 2}));
  p.temperature = 0;
  EXPECT_EQ(sampler.sample(logits, state_of(p)), 0);
}

TEST(Sampler, PenaltiesAndBias) {
  SamplingParams p;
  p.temperature = 0;
  p.repetition_penalty = 2;
  p.presence_penalty = 0.25f;
  p.frequency_penalty = 0.5f;
  p.logit_bias = {{4, 3.0f}, {5, -kInfinity}};
  SamplingState state = state_of(p, {0, 1});  // prompt: 0 and 1
  state.accept(2);
  state.accept(2);
  Sampler sampler(6);
  // prompt only: 4 / 2 and -1 * 2; twice in the answer: 6 / 2 - 2 * 0.5 - 0.25; untouched; bias; forbidden
  const std::vector<float> logits = {4, -1, 6, 1, -1.5f, 100};
  const std::vector<float> expected = {2, -2, 1.75f, 1, 1.5f, -kInfinity};
  p.temperature = 1;
  Distribution d;
  sampler.distribution(logits, state, d);
  const auto actual = dense(d, 6), wanted = reference(expected, SamplingParams{});
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(actual[i], wanted[i], 1e-6) << i;
}

TEST(Sampler, MinTokensMasksEveryEnd) {
  SamplingParams p;
  p.temperature = 0;
  p.min_tokens = 1;
  p.max_tokens = 3;
  p.stop_token_ids = {1};
  SamplingState state = state_of(p, {}, 1, {0});
  Sampler sampler(3);
  const std::vector<float> logits = {3, 2, 1};
  EXPECT_EQ(sampler.sample(logits, state), 2);
  state.accept(2);
  EXPECT_EQ(sampler.sample(logits, state), 0);
}

TEST(Sampler, BadLogitsAreErrors) {
  Sampler sampler(100);
  SamplingParams p;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity})
    for (const int at : {0, 63, 64, 99})
      for (const float temperature : {0.0f, 1.0f}) {
        std::vector<float> logits(100, 1);
        logits[at] = bad;
        p.temperature = temperature;
        EXPECT_THROW(sampler.sample(logits, state_of(p)), Error);
      }
  EXPECT_THROW(sampler.sample(std::vector<float>(100, -kInfinity), state_of(p)), Error);
  std::vector<float> one(100, -kInfinity);
  one[70] = -5;
  EXPECT_EQ(sampler.sample(one, state_of(p)), 70);
}

TEST(Sampler, LogprobsAddUp) {
  std::mt19937 random(5);
  const auto logits = random_logits(random, 1000);
  Sampler sampler(1000);
  const Logprobs all = sampler.logprobs(logits, 17, 1000);
  double total = 0;
  for (const auto& [token, logprob] : all.top) total += std::exp(logprob);
  EXPECT_NEAR(total, 1, 1e-5);
  EXPECT_TRUE(std::ranges::is_sorted(all.top, std::greater<>(), &TokenLogprob::logprob));
  EXPECT_EQ(std::ranges::find(all.top, 17, &TokenLogprob::token)->logprob, all.logprob);
}

// Pearson's statistic of counts against probabilities, over cells expected at least 5 times; and how many cells there were.
std::pair<double, int> chi_square(const std::vector<int>& counts, const std::vector<double>& p) {
  const int n = std::accumulate(counts.begin(), counts.end(), 0);
  double statistic = 0, rest_expected = 0, rest = 0;
  int cells = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * n;
    if (expected < 5) {
      rest_expected += expected, rest += counts[i];
      continue;
    }
    statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++cells;
  }
  if (rest_expected > 5) statistic += (rest - rest_expected) * (rest - rest_expected) / rest_expected, ++cells;
  return {statistic, cells};
}

// Five standard deviations above the mean of the distribution with cells - 1 degrees of freedom.
void expect_distributed(const std::vector<int>& counts, const std::vector<double>& p) {
  const auto [statistic, cells] = chi_square(counts, p);
  ASSERT_GT(cells, 1);
  const double freedom = cells - 1;
  EXPECT_LT(statistic, freedom + 5 * std::sqrt(2 * freedom));
  for (size_t i = 0; i < p.size(); ++i) EXPECT_TRUE(p[i] > 0 || counts[i] == 0) << "token " << i << " cannot come";
}

SamplingParams some_params(int which) {
  SamplingParams p;
  p.temperature = 0.9f;
  if (which == 1) p.top_k = 8;
  if (which == 2) p.top_p = 0.8f;
  if (which == 3) p.min_p = 0.05f, p.top_p = 0.95f, p.top_k = 20;
  return p;
}

TEST(Sampler, DrawsFollowTheDistribution) {
  std::mt19937 random(6);
  for (int which = 0; which < 4; ++which) {
    const int n = which == 0 ? 3000 : 50;  // 3000: several blocks of sums
    const auto logits = random_logits(random, n, 2);
    const SamplingParams p = some_params(which);
    Sampler sampler(n);
    std::vector<int> counts(n);
    for (uint64_t seed = 0; seed < 20000; ++seed) ++counts[sampler.sample(logits, state_of(p, {}, seed))];
    expect_distributed(counts, reference(logits, p));
  }
}

// Whatever the draft proposes, the verified token is distributed as the model says.
TEST(Verifier, IsLossless) {
  std::mt19937 random(8);
  for (int which = 0; which < 4; ++which)
    for (const float disagreement : {0.2f, 1.0f, 5.0f, -1.0f}) {  // -1: certain proposals, as of n-grams
      const int n = which == 0 ? 2000 : 40;
      const auto logits = random_logits(random, n, 2);
      auto draft_logits = logits;
      for (auto& x : draft_logits) x += disagreement * std::normal_distribution<float>()(random);
      const SamplingParams p = some_params(which);
      const auto expected = reference(logits, p);
      Sampler sampler(n);
      Verifier verifier(sampler);
      std::vector<int> counts(n);
      int accepted = 0;
      const int rounds = 20000;
      for (int seed = 0; seed < rounds; ++seed) {
        const SamplingState state = state_of(p, {}, seed);
        Proposal proposal;
        if (disagreement >= 0) {
          sampler.proposal(draft_logits, state, proposal.distributions.emplace_back());
          proposal.num_distributions = 1;
          proposal.tokens = {sampler.draw(proposal.distributions[0], state.draw(Draw::Proposal, 0))};
        } else {
          proposal.tokens = {static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin())};
        }
        const Verdict verdict = verifier.verify(logits, state, proposal, 0);
        accepted += verdict.accepted;
        EXPECT_TRUE(!verdict.accepted || verdict.token == proposal.tokens[0]);
        ++counts[verdict.token];
      }
      expect_distributed(counts, expected);
      // The acceptance rate is what theory says: sum of min(p, q).
      if (disagreement >= 0) {
        const auto q = reference(draft_logits, p);
        double overlap = 0;
        for (int i = 0; i < n; ++i) overlap += std::min(expected[i], q[i]);
        EXPECT_NEAR(accepted, overlap * rounds, 5 * std::sqrt(rounds) / 2);
      }
    }
}

TEST(Verifier, GreedyIsTheModelsChoice) {
  SamplingParams p;
  p.temperature = 0;
  const std::vector<float> logits = {1, 3, 2};
  Sampler sampler(3);
  Verifier verifier(sampler);
  const SamplingState state = state_of(p);
  EXPECT_TRUE(verifier.verify(logits, state, {.tokens = {1}}, 0).accepted);
  const Verdict verdict = verifier.verify(logits, state, {.tokens = {2}}, 0);
  EXPECT_FALSE(verdict.accepted);
  EXPECT_EQ(verdict.token, 1);
}

// Known answers of the Random123 library, version 1.09 (kat_vectors).
TEST(Random, PhiloxKnownAnswers) {
  using Four = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Four{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}), (Four{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Four{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Logits, EveryInstructionSetAgreesWithPlainCode) {
  std::vector<const LogitsFunctions*> all = {&logits_functions_plain()};
  if (cpu_features().avx2) all.push_back(&logits_functions_avx2());
  if (cpu_features().avx512) all.push_back(&logits_functions_avx512());
  std::mt19937 random(2);
  for (const int n : {1, 8, 63, 64, 65, 1023, 1024, 1040, 5000}) {
    auto x = random_logits(random, n);
    x[n / 2] = -kInfinity;
    x[n - 1] = 9;
    std::vector<float> maxima((n + 63) / 64), weights(n);
    std::vector<double> sums((n + 1023) / 1024);
    std::vector<int32_t> ids(n + 16);
    std::vector<double> total, weighted;
    for (const LogitsFunctions* f : all) {
      EXPECT_TRUE(f->block_max(maxima.data(), x.data(), n));
      for (size_t b = 0; b < maxima.size(); ++b)
        EXPECT_EQ(maxima[b], *std::max_element(x.begin() + b * 64, x.begin() + std::min<size_t>(n, b * 64 + 64)));
      total.push_back(f->exp_sum(x.data(), n, 9));
      weighted.push_back(f->exp_weights(weights.data(), sums.data(), x.data(), n, 9, 0.5f));
      EXPECT_NEAR(std::accumulate(sums.begin(), sums.end(), 0.0), weighted.back(), 1e-9);
      for (int i = 0; i < n; ++i) EXPECT_NEAR(weights[i], std::exp((x[i] - 9) * 0.5f), 1e-6);
      EXPECT_NEAR(total.back(), total[0], 1e-5 * total[0]);
      EXPECT_NEAR(weighted.back(), weighted[0], 1e-5 * weighted[0]);
      const auto count = f->collect(ids.data(), x.data(), n, 2);
      std::vector<int32_t> expected;
      for (int i = 0; i < n; ++i)
        if (x[i] >= 2) expected.push_back(i);
      EXPECT_EQ(std::vector<int32_t>(ids.begin(), ids.begin() + count), expected);
      for (const int at : {0, n / 3, n - 1}) {
        auto bad = x;
        bad[at] = std::numeric_limits<float>::quiet_NaN();
        EXPECT_FALSE(f->block_max(maxima.data(), bad.data(), n)) << n << " " << at;
        bad[at] = kInfinity;
        EXPECT_FALSE(f->block_max(maxima.data(), bad.data(), n));
      }
    }
  }
}

TEST(Logits, TopKEqualsSorting) {
  std::mt19937 random(4);
  LogitsRow row;
  for (const int n : {1, 50, 64, 700, 9000})
    for (const int k : {1, 2, 10, 64, 700}) {
      auto x = random_logits(random, n);
      for (auto& v : x) v = std::round(v * 4) / 4;  // many equal ones
      row.scan(x);
      const auto ids = row.top_k(k);
      std::vector<int32_t> actual(ids.begin(), ids.end()), order(n);
      std::iota(order.begin(), order.end(), 0);
      std::ranges::stable_sort(order, [&](int a, int b) { return x[a] > x[b]; });
      order.resize(std::min(n, k));
      std::ranges::sort(actual);
      std::ranges::sort(order);
      EXPECT_EQ(actual, order);
      EXPECT_EQ(row.argmax(), std::ranges::max_element(x) - x.begin());
    }
}

}  // namespace
}  // namespace tokamak::llm
