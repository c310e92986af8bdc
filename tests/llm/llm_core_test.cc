#include "llm/llm_core.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <array>

#include "tests/llm/fake_model.h"

namespace tokamak::llm {
namespace {

std::unique_ptr<Proposer> draft_proposer(int num_blocks = 1024, int wrong_percent = 30, FakeModelOptions options = {}) {
  options.num_blocks = num_blocks;
  options.wrong_percent = wrong_percent;
  return std::make_unique<DraftProposer>(std::make_unique<FakeModel>(options), options.vocab_size, 64, true);
}

TEST(LlmCore, GreedyFollowsTheModel) {
  Rig rig;
  const std::vector<int32_t> prompt = {7, 8, 9, 10, 11};
  const auto id = rig.add(greedy(prompt, 20));
  rig.run();
  std::vector<int32_t> context = prompt, expected;
  std::vector<float> logits(61);
  for (int i = 0; i < 20; ++i) {
    rig.model->logits_of(context, logits);
    context.push_back(static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()));
    expected.push_back(context.back());
    if (context.back() == 2) break;
  }
  EXPECT_EQ(rig.result(id).tokens, expected);
  rig.expect_idle();
}

struct Setting {
  bool prefix_cache, chunked_prefill;
  int num_blocks;
  int speculate;  // 0 no, 1 n-gram, 2 draft, 3 draft with few blocks
  bool asynchronous = false;
};

std::string setting_name(const testing::TestParamInfo<Setting>& info) {
  static constexpr std::array kProposers = {"", "_ngram", "_draft", "_tight_draft"};
  const Setting& p = info.param;
  return std::string(p.prefix_cache ? "cached" : "uncached") + (p.chunked_prefill ? "_chunked" : "_whole") +
         (p.num_blocks < 200 ? "_preempting" : "") + kProposers[p.speculate] + (p.asynchronous ? "_ahead" : "");
}

class LlmCoreSettings : public testing::TestWithParam<Setting> {};

TEST_P(LlmCoreSettings, ConcurrentAnswersEqualThoseGotAlone) {
  const Setting& p = GetParam();
  std::unique_ptr<Proposer> proposer;
  if (p.speculate == 1) proposer = std::make_unique<NGramProposer>(1, 3);
  if (p.speculate >= 2) proposer = draft_proposer(p.speculate == 2 ? 1024 : 40);
  Rig rig({.num_blocks = p.num_blocks, .asynchronous = p.asynchronous},
          {.max_num_seqs = 64, .max_num_batched_tokens = 96, .prefix_cache = p.prefix_cache, .chunked_prefill = p.chunked_prefill},
          std::move(proposer));
  expect_as_alone(rig, mixed_requests(64, 40, 11), p.speculate == 0);
  const Statistics s = rig.core->statistics();
  EXPECT_EQ(s.num_running + s.num_waiting, 0);
  EXPECT_EQ(s.requests_finished, 64);
  EXPECT_EQ(s.preemptions > 0, p.num_blocks < 200);
  EXPECT_EQ(s.prefix_hit_tokens > 0, p.prefix_cache);
  EXPECT_TRUE(rig.model->max_batch <= 96 || !p.chunked_prefill);
  EXPECT_TRUE(p.speculate < 2 || s.accepted_tokens > s.speculated_tokens / 3) << s.accepted_tokens << " of " << s.speculated_tokens;
  EXPECT_EQ(s.draft_failures, 0);
  EXPECT_TRUE(rig.model->num_submitted == 0 || (p.asynchronous && p.speculate == 0));
}

INSTANTIATE_TEST_SUITE_P(All, LlmCoreSettings,
                         testing::Values(Setting{false, false, 4096, 0}, Setting{true, false, 4096, 0}, Setting{false, true, 4096, 0},
                                         Setting{true, true, 4096, 0}, Setting{false, false, 60, 0}, Setting{true, false, 60, 0},
                                         Setting{false, true, 60, 0}, Setting{true, true, 60, 0}, Setting{true, true, 4096, 1},
                                         Setting{false, true, 60, 1}, Setting{true, true, 60, 1}, Setting{true, true, 4096, 2},
                                         Setting{true, false, 60, 2}, Setting{false, true, 60, 2}, Setting{true, true, 60, 2},
                                         Setting{true, true, 60, 3}, Setting{false, false, 4096, 0, true},
                                         Setting{true, false, 4096, 0, true}, Setting{false, true, 4096, 0, true},
                                         Setting{true, true, 4096, 0, true}, Setting{false, false, 60, 0, true},
                                         Setting{true, false, 60, 0, true}, Setting{false, true, 60, 0, true},
                                         Setting{true, true, 60, 0, true}, Setting{true, true, 60, 1, true}),
                         setting_name);

TEST(LlmCore, APromptLargerThanTheBudgetIsOneStepWhenChunkingIsOff) {
  Rig rig({}, {.max_num_seqs = 4, .max_num_batched_tokens = 16, .chunked_prefill = false});
  std::mt19937 random(1);
  rig.add(greedy(random_tokens(random, 100), 2));
  rig.core->step();
  EXPECT_EQ(rig.model->max_batch, 100);
  rig.run();
}

TEST(LlmCore, DecodesGoOnWhileALongPromptIsComputed) {
  Rig rig({}, {.max_num_seqs = 4, .max_num_batched_tokens = 16});
  std::mt19937 random(1);
  Request first = greedy({5}, 50);
  first.sampling.ignore_eos = true;
  const auto a = rig.add(first);
  rig.core->step();
  const auto b = rig.add(greedy(random_tokens(random, 100), 2));
  for (int i = 0; i < 6; ++i) rig.core->step();
  EXPECT_EQ(rig.result(a).tokens.size(), 7u);
  EXPECT_FALSE(rig.results.contains({b, 0}));
  rig.core->step();
  EXPECT_EQ(rig.result(b).tokens.size(), 1u) << "100 tokens at 15 a step";
  rig.run();
}

TEST(LlmCore, RepeatedPromptsComeFromTheCache) {
  Rig rig({}, {.max_num_seqs = 8});
  std::mt19937 random(2);
  const Request r = greedy(random_tokens(random, 41), 4);
  rig.add(r);
  rig.run();
  const auto id = rig.add(r);
  rig.run();
  EXPECT_EQ(rig.usage[id].cached_tokens, 40);
  EXPECT_EQ(rig.result(id), rig.result(1));
  Request exact = r;
  exact.prompt_ids.pop_back();  // whole blocks: at least one token is computed
  const auto other = rig.add(exact);
  rig.run();
  EXPECT_EQ(rig.usage[other].cached_tokens, 36);
}

TEST(LlmCore, AnswersOfOneRequestShareThePromptAndCopyOnWrite) {
  Rig rig({}, {.max_num_seqs = 8, .prefix_cache = false});
  std::mt19937 random(2);
  Request r = greedy(random_tokens(random, 41), 8);
  r.sampling.temperature = 1;
  r.sampling.seed = 5;
  r.sampling.n = 4;
  r.sampling.ignore_eos = true;
  const auto id = rig.add(r);
  rig.core->step();
  EXPECT_EQ(rig.core->blocks().num_used(), 11) << "41 tokens in blocks of 4, all shared";
  rig.core->step();
  EXPECT_EQ(rig.core->blocks().num_used(), 14);
  EXPECT_EQ(rig.model->num_copies, 3) << "the last holder keeps the block";
  rig.run();
  const auto expected = alone(r);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(rig.result(id, i), expected[i]);
  EXPECT_NE(rig.result(id, 0).tokens, rig.result(id, 1).tokens);
  EXPECT_EQ(rig.usage[id].completion_tokens, 32);
  rig.expect_idle();
}

TEST(LlmCore, LimitsEndAnswersWithLength) {
  Rig rig({.context_length = 32, .num_blocks = 64});
  Request r = greedy({4, 5, 6}, 1000);
  r.sampling.ignore_eos = true;
  const auto a = rig.add(r);
  r.sampling.max_tokens = 7;
  const auto b = rig.add(r);
  rig.run();
  EXPECT_EQ(rig.result(a).tokens.size(), 29u);
  EXPECT_EQ(rig.result(a).reason, FinishReason::Length);
  EXPECT_EQ(rig.result(b).tokens.size(), 7u);
  EXPECT_EQ(rig.result(b).reason, FinishReason::Length);
}

TEST(LlmCore, TheWholePoolIsTheContextWhenItIsSmaller) {
  Rig rig({.context_length = 512, .num_blocks = 8});
  EXPECT_EQ(rig.core->context_length(), 32);
  Request r = greedy({4, 5, 6}, 1000);
  r.sampling.ignore_eos = true;
  const auto a = rig.add(r), b = rig.add(r);
  rig.run();
  for (const auto id : {a, b}) EXPECT_EQ(rig.result(id).tokens.size(), 29u);
  rig.expect_idle();
}

ErrorCode code_of(const Rig& rig, const Request& request, std::string_view part) {
  try {
    rig.core->validate(request);
  } catch (const Error& e) {
    EXPECT_NE(std::string_view(e.what()).find(part), std::string_view::npos) << e.what();
    return e.code();
  }
  ADD_FAILURE() << "accepted: " << part;
  return ErrorCode::Internal;
}

TEST(LlmCore, BadRequestsAreRefused) {
  Rig rig({.context_length = 64, .num_blocks = 8}, {.max_num_seqs = 4});
  EXPECT_EQ(code_of(rig, greedy({}, 4), "no tokens"), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of(rig, greedy({61}, 4), "token 61"), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of(rig, greedy({-1}, 4), "token -1"), ErrorCode::InvalidArgument);
  EXPECT_EQ(code_of(rig, greedy(std::vector<int32_t>(64, 5), 4), "64 tokens"), ErrorCode::OutOfRange);
  EXPECT_EQ(code_of(rig, greedy(std::vector<int32_t>(32, 5), 4), "KV cache holds 32"), ErrorCode::ResourceExhausted);
  EXPECT_NO_THROW(rig.core->validate(greedy(std::vector<int32_t>(31, 5), 4)));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto with = [](auto set) {
    Request r = greedy({5}, 4);
    set(r.sampling);
    return r;
  };
  EXPECT_EQ(code_of(rig, with([](auto& s) { s.n = 5; }), "max_num_seqs"), ErrorCode::ResourceExhausted);
  const std::pair<const char*, Request> bad[] = {
      {"temperature", with([](auto& s) { s.temperature = -1; })},
      {"temperature", with([&](auto& s) { s.temperature = nan; })},
      {"top_k", with([](auto& s) { s.top_k = -1; })},
      {"top_p", with([](auto& s) { s.top_p = 0; })},
      {"top_p", with([](auto& s) { s.top_p = 1.01f; })},
      {"min_p", with([](auto& s) { s.min_p = -0.1f; })},
      {"repetition_penalty", with([](auto& s) { s.repetition_penalty = 0; })},
      {"presence_penalty", with([](auto& s) { s.presence_penalty = 3; })},
      {"frequency_penalty", with([&](auto& s) { s.frequency_penalty = nan; })},
      {"logit_bias", with([](auto& s) { s.logit_bias[61] = 1; })},
      {"logit_bias", with([&](auto& s) { s.logit_bias[6] = nan; })},
      {"logprobs", with([](auto& s) { s.logprobs = 62; })},
      {"n is 0", with([](auto& s) { s.n = 0; })},
      {"prompt_logprobs", with([](auto& s) { s.prompt_logprobs = -2; })},
      {"max_tokens", with([](auto& s) { s.max_tokens = -1, s.min_tokens = -1; })},
      {"min_tokens", with([](auto& s) { s.min_tokens = 5; })},
      {"stop_token_ids", with([](auto& s) { s.stop_token_ids = {99}; })},
      {"stop string", with([](auto& s) { s.stop = {""}; })},
  };
  for (const auto& [part, request] : bad) EXPECT_EQ(code_of(rig, request, part), ErrorCode::InvalidArgument);
  Rig wordless({}, {}, nullptr, false);
  EXPECT_EQ(code_of(wordless, with([](auto& s) { s.stop = {"x"}; }), "tokenizer"), ErrorCode::InvalidArgument);
}

TEST(LlmCore, NanLogitsEndOneRequestOnly) {
  Rig rig({.nan_token = 3});
  const Request good = greedy({10, 11, 12, 13, 14}, 20);
  Request bad = greedy({10, 11, 3}, 20);
  bad.sampling.n = 2;
  const auto a = rig.add(good), b = rig.add(bad), c = rig.add(good);
  rig.run();
  EXPECT_EQ(rig.result(b).reason, FinishReason::Error);
  EXPECT_EQ(rig.result(b, 1).reason, FinishReason::Error);
  EXPECT_NE(rig.result(b).error.find("NaN"), std::string::npos);
  for (const auto id : {a, c}) EXPECT_EQ(rig.result(id), alone(good, {.nan_token = 3})[0]);
  EXPECT_EQ(rig.core->statistics().requests_failed, 1);
  rig.expect_idle();
}

TEST(LlmCore, AFailingStepEndsItsRequestsAndNoOthers) {
  Rig rig({.throw_token = 3}, {.max_num_seqs = 1});
  const auto a = rig.add(greedy({3, 4}, 5)), b = rig.add(greedy({4, 5}, 5));
  rig.run();
  EXPECT_EQ(rig.result(a).reason, FinishReason::Error);
  EXPECT_EQ(rig.result(a).error, "the fake model was asked to throw");
  EXPECT_EQ(rig.result(b), alone(greedy({4, 5}, 5))[0]);
  rig.expect_idle();
}

TEST(LlmCore, AFailingDraftCostsSpeedOnly) {
  Rig rig({}, {}, draft_proposer(1024, 0, {.throw_token = 20}));
  std::vector<Request> requests;
  for (int i = 4; i < 36; ++i) requests.push_back(greedy({i, 5, 6}, 30));
  expect_as_alone(rig, requests);
  EXPECT_GT(rig.core->statistics().draft_failures, 0);
}

TEST(LlmCore, CancellingFreesTheBlocksAtOnce) {
  Rig rig;
  Request r = greedy({4, 5, 6, 7, 8}, 400);
  r.sampling.ignore_eos = true;
  const auto a = rig.add(r);
  for (int i = 0; i < 5; ++i) rig.core->step();
  EXPECT_GT(rig.core->blocks().num_used(), 0);
  EXPECT_TRUE(rig.core->cancel(a));
  EXPECT_EQ(rig.core->blocks().num_used(), 0);
  EXPECT_EQ(rig.result(a).reason, FinishReason::Abort);
  EXPECT_EQ(rig.result(a).tokens.size(), 5u);
  EXPECT_FALSE(rig.core->cancel(a));
  EXPECT_FALSE(rig.core->has_work());
}

TEST(LlmCore, StopStringsEndAnswersAndNeverLeak) {
  std::mt19937 random(9);
  for (int round = 0; round < 60; ++round) {
    Request r = greedy(random_tokens(random, 8), 60);
    r.sampling.ignore_eos = true;
    const std::string whole = alone(r)[0].text;
    const size_t at = random() % (whole.size() - 6), length = 2 + random() % 5;
    const std::string stop = whole.substr(at, length);
    r.sampling.stop = {"never in there", stop};
    for (const bool include : {false, true}) {
      r.sampling.include_stop_str_in_output = include;
      Rig rig;
      const auto id = rig.add(r);
      const size_t end = whole.find(stop) + (include ? stop.size() : 0);
      while (rig.core->has_work()) {
        rig.core->step();
        EXPECT_TRUE(whole.substr(0, end).starts_with(rig.result(id).text)) << rig.result(id).text;
      }
      EXPECT_EQ(rig.result(id).text, whole.substr(0, end));
      EXPECT_EQ(rig.result(id).reason, FinishReason::Stop);
      EXPECT_EQ(rig.result(id).stop_string, stop);
      rig.expect_idle();
    }
  }
}

// Spells one emoji after the other, four tokens each.
class EmojiMask final : public TokenMask {
 public:
  std::unique_ptr<TokenMask> clone() const override { return std::make_unique<EmojiMask>(); }
  void fill(std::span<uint64_t> allowed) override { allowed[0] = uint64_t{1} << (40 + count_ % 4); }
  void accept(int32_t) override { ++count_; }

 private:
  int count_ = 0;
};

TEST(LlmCore, TextIsWholeCharacters) {
  Rig rig;
  Request r = greedy({5, 6}, 10);
  r.mask = std::make_shared<EmojiMask>();
  const auto id = rig.add(r);
  const std::string emoji = "\xF0\x9F\x98\x80";
  for (int step = 1; step < 10; ++step) {
    rig.core->step();
    EXPECT_EQ(rig.result(id).text, step < 4 ? "" : step < 8 ? emoji : emoji + emoji);
  }
  rig.run();
  EXPECT_EQ(rig.result(id).text, emoji + emoji + "\xEF\xBF\xBD");
}

TEST(LlmCore, MinTokensHoldsBackEveryKindOfEnd) {
  std::mt19937 random(4);
  for (int round = 0; round < 20; ++round) {
    Request r = greedy(random_tokens(random, 5), 30);
    r.sampling.min_tokens = 10;
    r.sampling.stop_token_ids = {20, 21, 22, 23, 24};
    r.sampling.stop = {"a", "b", "c", "d"};
    const Result result = alone(r, {.eos_bias = 3})[0];
    ASSERT_GE(result.tokens.size(), 10u);
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(result.tokens[i] != 2 && (result.tokens[i] < 20 || result.tokens[i] > 24));
  }
}

TEST(LlmCore, EndTokensArePartOfTheTokensNotOfTheText) {
  Request r = greedy({5, 6}, 100);
  const Result eos = alone(r, {.eos_bias = 1})[0];
  ASSERT_EQ(eos.reason, FinishReason::Stop);
  EXPECT_EQ(eos.tokens.back(), 2);
  r.sampling.ignore_eos = true;
  const Result whole = alone(r, {.eos_bias = 1})[0];
  EXPECT_EQ(whole.tokens.size(), 100u);
  EXPECT_TRUE(whole.text.starts_with(eos.text));
  EXPECT_LT(eos.text.size(), whole.text.size());
}

TEST(LlmCore, PrioritiesGoFirstAndPreempt) {
  Rig rig({.num_blocks = 16}, {.max_num_seqs = 4, .prefix_cache = false, .priority_aging_ms = 100'000});
  Request low = greedy({5, 6, 7}, 30);
  low.sampling.ignore_eos = true;
  low.priority = 1;
  Request high = low;
  high.priority = 0;
  high.prompt_ids = {9, 9};
  std::vector<RequestId> lows;
  for (int i = 0; i < 6; ++i) lows.push_back(rig.add(low));
  for (int i = 0; i < 8; ++i) rig.core->step();
  const auto urgent = rig.add(high);
  while (!rig.results.contains({urgent, 0}) || rig.result(urgent).reason == FinishReason::None) rig.core->step();
  for (size_t i = 2; i < lows.size(); ++i) EXPECT_EQ(rig.results[std::pair(lows[i], 0)].reason, FinishReason::None);
  rig.run();
  EXPECT_GT(rig.core->statistics().preemptions, 0);
  EXPECT_EQ(rig.result(urgent), alone(high)[0]);
  for (const auto id : lows) EXPECT_EQ(rig.result(id), alone(low)[0]);
}

// A stream of urgent requests that never ends: the patient one is served all the same.
TEST(LlmCore, NothingStarves) {
  Rig rig({.num_blocks = 8}, {.max_num_seqs = 2, .priority_aging_ms = 50});
  Request patient = greedy({5, 6, 7}, 8);
  patient.sampling.ignore_eos = true;
  patient.priority = 5;
  Request urgent = patient;
  urgent.priority = 0;
  const auto id = rig.add(patient);
  int steps = 0;
  for (; steps < 3000 && (!rig.results.contains({id, 0}) || rig.result(id).reason == FinishReason::None); ++steps) {
    while (rig.core->statistics().num_waiting < 4) rig.add(urgent);
    rig.core->step();
  }
  EXPECT_LT(steps, 3000);
  EXPECT_GT(steps, 20) << "it should have waited";
  EXPECT_EQ(rig.result(id), alone(patient)[0]);
}

TEST(LlmCore, LogprobsAreOfTheRawLogits) {
  Request r = greedy({5, 6}, 5);
  r.sampling.logprobs = 3;
  r.sampling.logit_bias[30] = 100;  // forces token 30
  Rig rig;
  const auto id = rig.add(r);
  rig.run();
  const Result& result = rig.result(id);
  ASSERT_EQ(result.logprobs.size(), result.tokens.size());
  std::vector<int32_t> context = {5, 6};
  std::vector<float> logits(61);
  for (size_t i = 0; i < result.tokens.size(); ++i) {
    rig.model->logits_of(context, logits);
    double total = 0;
    for (const float x : logits) total += std::exp(x);
    EXPECT_EQ(result.tokens[i], 30);
    EXPECT_NEAR(result.logprobs[i].logprob, logits[30] - std::log(total), 1e-4);
    ASSERT_EQ(result.logprobs[i].top.size(), 3u);
    auto sorted = logits;
    std::ranges::sort(sorted, std::greater<>());
    for (int k = 0; k < 3; ++k) EXPECT_NEAR(result.logprobs[i].top[k].logprob, sorted[k] - std::log(total), 1e-4);
    context.push_back(result.tokens[i]);
  }
}

// Whatever the chunks, the cache, preemption, what runs beside them and how many answers there are.
TEST(LlmCore, LogprobsOfThePrompt) {
  std::mt19937 random(3);
  for (const auto& [num_blocks, chunk, asynchronous] : {std::tuple(4096, 96, false), {4096, 7, true}, {60, 16, false}, {60, 16, true}}) {
    Rig rig({.num_blocks = num_blocks, .asynchronous = asynchronous}, {.max_num_seqs = 7, .max_num_batched_tokens = chunk});
    std::vector<std::pair<RequestId, Request>> all;
    const auto shared = random_tokens(random, 40);
    for (int i = 0; i < 24; ++i) {
      Request r = greedy(i % 2 ? shared : random_tokens(random, 1 + i * 3), i % 3 == 2 ? 0 : 40);
      r.sampling.prompt_logprobs = i % 4 == 3 ? -1 : i % 3;
      r.sampling.n = 1 + i % 2;
      all.emplace_back(rig.add(r), r);
      rig.core->step();
    }
    rig.run();
    rig.expect_idle();
    std::vector<float> logits(61);
    for (const auto& [id, r] : all)
      for (int index = 0; index < r.sampling.n; ++index) {
        const Result& result = rig.result(id, index);
        EXPECT_TRUE(result.reason == FinishReason::Stop || std::ssize(result.tokens) == r.sampling.max_tokens);
        const auto& prompt = r.prompt_ids;
        ASSERT_EQ(result.prompt_logprobs.size(), r.sampling.prompt_logprobs < 0 ? 0 : prompt.size() - 1);
        for (size_t i = 0; i < result.prompt_logprobs.size(); ++i) {
          rig.model->logits_of(std::span(prompt).first(i + 1), logits);
          double total = 0;
          for (const float x : logits) total += std::exp(x);
          EXPECT_NEAR(result.prompt_logprobs[i].logprob, logits[prompt[i + 1]] - std::log(total), 1e-4);
          EXPECT_EQ(std::ssize(result.prompt_logprobs[i].top), r.sampling.prompt_logprobs);
        }
      }
    EXPECT_EQ(rig.core->statistics().preemptions > 0, num_blocks < 200);
    EXPECT_GT(rig.core->statistics().prefix_hit_tokens, 0);
  }
}

// Only even tokens, and not the one before.
class EvenMask final : public TokenMask {
 public:
  std::unique_ptr<TokenMask> clone() const override { return std::make_unique<EvenMask>(); }
  void fill(std::span<uint64_t> allowed) override {
    for (int t = 4; t < 61; t += 2)
      if (t != last_) allowed[t / 64] |= uint64_t{1} << (t % 64);
  }
  void accept(int32_t token) override {
    if (token == 60 && throws) fail(ErrorCode::InvalidArgument, "sixty is too much");
    last_ = token;
  }
  bool throws = false;

 private:
  int32_t last_ = -1;
};

TEST(LlmCore, MasksConstrainEveryAnswer) {
  Rig rig({}, {}, draft_proposer());
  Request r = greedy({5, 6}, 30);
  r.sampling.temperature = 1;
  r.sampling.n = 3;
  r.mask = std::make_shared<EvenMask>();
  const auto id = rig.add(r);
  rig.run();
  for (int i = 0; i < 3; ++i) {
    const auto& tokens = rig.result(id, i).tokens;
    EXPECT_EQ(tokens.size(), 30u);
    for (size_t k = 0; k < tokens.size(); ++k) EXPECT_TRUE(tokens[k] % 2 == 0 && (k == 0 || tokens[k] != tokens[k - 1]));
  }
}

class EmptyMask final : public TokenMask {
 public:
  std::unique_ptr<TokenMask> clone() const override { return std::make_unique<EmptyMask>(); }
  void fill(std::span<uint64_t>) override {}
  void accept(int32_t) override {}
};

TEST(LlmCore, AMaskThatAllowsNothingIsAnError) {
  Rig rig;
  Request r = greedy({5, 6}, 30);
  r.mask = std::make_shared<EmptyMask>();
  const auto id = rig.add(r);
  rig.run();
  EXPECT_EQ(rig.result(id).reason, FinishReason::Error);
  rig.expect_idle();
}

TEST(LlmCore, NGramsFindRepetition) {
  // A prompt that repeats, and an answer forced to repeat with it.
  Rig rig({}, {}, std::make_unique<NGramProposer>(2, 4));
  std::vector<int32_t> prompt;
  for (int i = 0; i < 5; ++i) prompt.insert(prompt.end(), {10, 11, 12, 13});
  Request r = greedy(prompt, 40);
  r.sampling.ignore_eos = true;
  for (int32_t t = 0; t < 61; ++t)
    if (t != 13) r.sampling.logit_bias[t] = -std::numeric_limits<float>::infinity();
  const auto id = rig.add(r);
  rig.run();
  EXPECT_EQ(rig.result(id), alone(r)[0]);
  EXPECT_GT(rig.core->statistics().accepted_tokens, 25);
  EXPECT_LT(rig.core->statistics().num_steps, 15);
}

TEST(LlmCore, AGoodDraftSavesSteps) {
  Rig rig({}, {.speculative = {.num_tokens = 4}}, draft_proposer(1024, 0));
  Request r = greedy({5, 6, 7}, 100);
  r.sampling.ignore_eos = true;
  const auto id = rig.add(r);
  rig.run();
  EXPECT_EQ(rig.result(id), alone(r)[0]);
  const Statistics s = rig.core->statistics();
  EXPECT_EQ(s.accepted_tokens, s.speculated_tokens) << "the draft is the model";
  EXPECT_EQ(s.num_steps, 1 + 20);
}

TEST(LlmCore, DraftBlocksAreFreedToo) {
  auto proposer = draft_proposer(64);
  const auto* draft = static_cast<const DraftProposer*>(proposer.get());
  Rig rig({.num_blocks = 64}, {.max_num_seqs = 16}, std::move(proposer));
  expect_as_alone(rig, mixed_requests(32, 30, 5), false);
  EXPECT_EQ(draft->num_used_blocks(), 0);
}

TEST(LlmCore, OptionsOutOfRangeAreRefused) {
  EXPECT_THROW(Rig({}, {.max_num_seqs = 0}), Error);
  EXPECT_THROW(Rig({}, {.max_num_seqs = 64, .max_num_batched_tokens = 63}), Error);
  EXPECT_THROW(Rig({}, {.max_context_length = -1}), Error);
  EXPECT_THROW(Rig({}, {.speculative = {.num_tokens = 17}}, draft_proposer()), Error);
  EXPECT_THROW(NGramProposer(3, 2), Error);
  EXPECT_THROW(DraftProposer(std::make_unique<FakeModel>(), 62, 64, true), Error);
}

// Random lengths, cancellations, priorities and arrivals in few blocks; every answer that was not cancelled is the right one.
void soak(int count, bool speculate, bool asynchronous = false) {
  std::mt19937 random(99);
  Rig rig({.num_blocks = 48, .asynchronous = asynchronous}, {.max_num_seqs = 16, .max_num_batched_tokens = 64, .priority_aging_ms = 200},
          speculate ? draft_proposer(48) : nullptr);
  const auto requests = asynchronous ? plain_requests(count, 30, 77) : mixed_requests(count, 30, 77);
  std::map<RequestId, size_t> live;
  std::map<RequestId, size_t> cancelled;
  size_t next = 0;
  const auto submit = [&] { live[rig.add(requests[next])] = next, ++next; };
  std::vector<std::pair<RequestId, size_t>> all;
  while (next < requests.size() || rig.core->has_work()) {
    for (size_t burst = random() % 3; burst > 0 && next < requests.size(); --burst) {
      submit();
      all.emplace_back(rig.last_id, next - 1);
    }
    if (random() % 6 == 0 && !all.empty()) {
      const auto [id, index] = all[all.size() - 1 - random() % std::min<size_t>(all.size(), 20)];
      if (rig.core->cancel(id)) cancelled[id] = index;
    }
    if (rig.core->has_work()) rig.core->step();
    rig.core->blocks().check();
  }
  rig.expect_idle();
  ASSERT_EQ(all.size(), requests.size());
  int compared = 0;
  for (const auto& [id, index] : all) {
    for (int k = 0; k < requests[index].sampling.n; ++k) {
      const Result& result = rig.result(id, k);
      ASSERT_NE(result.reason, FinishReason::None) << "lost";
      if (cancelled.contains(id)) continue;
      ASSERT_NE(result.reason, FinishReason::Abort);
      if (speculate && requests[index].sampling.temperature > 0) continue;
      ++compared;
      ASSERT_EQ(result, alone(requests[index])[k]) << id;
    }
  }
  EXPECT_GT(compared, count / 3);
  EXPECT_GT(std::ssize(cancelled), count / 20);
  EXPECT_GT(rig.core->statistics().preemptions, count / 20);
}

TEST(LlmCore, MemoryStaysFlat) {
  const auto requests = mixed_requests(300, 30, 5);
  Rig rig({.num_blocks = 48}, {.max_num_seqs = 16, .max_num_batched_tokens = 64}, draft_proposer(48));
  std::vector<size_t> bytes;
  for (int round = 0; round < 4; ++round) {
    for (const Request& r : requests) rig.add(r);
    rig.run();
    rig.results.clear();
    rig.usage.clear();
    bytes.push_back(mallinfo2().uordblks);
  }
  if (bytes[0] == 0) GTEST_SKIP() << "a sanitizer owns the allocator";
  EXPECT_LE(bytes[3], bytes[1] + 4096) << "1200 requests against 600";
}

TEST(LlmCore, Soak) { soak(2000, false); }
TEST(LlmCore, SoakAhead) { soak(2000, false, true); }
TEST(LlmCore, SoakWithADraft) { soak(600, true); }

}  // namespace
}  // namespace tokamak::llm
