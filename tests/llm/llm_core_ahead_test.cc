// Asynchronous scheduling: a step is queued before the tokens of the one before are known.

#include <gtest/gtest.h>

#include "llm/llm_core.h"
#include "tests/llm/fake_model.h"

namespace tokamak::llm {
namespace {

TEST(LlmCoreAhead, StepsAheadOfTheirTokensGiveTheSameAnswers) {
  for (const bool prefix_cache : {false, true})
    for (const bool chunked_prefill : {false, true})
      for (const int num_blocks : {4096, 60, 35}) {
        Rig rig({.num_blocks = num_blocks, .eos_bias = 2, .asynchronous = true},
                {.max_num_seqs = 64, .max_num_batched_tokens = 96, .prefix_cache = prefix_cache, .chunked_prefill = chunked_prefill});
        const auto requests = plain_requests(100, 40, 12);
        expect_as_alone(rig, requests, true, {.eos_bias = 2});
        EXPECT_GT(rig.model->num_submitted, rig.model->num_steps / 2);
        EXPECT_LT(rig.model->num_submitted, rig.model->num_steps) << "answers to one prompt begin together";
        EXPECT_EQ(rig.core->statistics().requests_finished, 100);
        EXPECT_EQ(rig.core->statistics().num_steps, rig.model->num_steps);
        EXPECT_EQ(rig.core->statistics().preemptions > 0, num_blocks < 200);
      }
}

TEST(LlmCoreAhead, AStepAheadIsOnlyThrownAwayWhenAnEndWasNotForeseen) {
  Rig rig({.asynchronous = true});
  Request r = greedy({5, 6, 7}, 20);
  r.sampling.ignore_eos = true;
  const auto id = rig.add(r);
  rig.core->step();
  EXPECT_FALSE(rig.results.contains({id, 0})) << "only submitted";
  rig.core->step();
  EXPECT_EQ(rig.result(id).tokens.size(), 1u);
  EXPECT_EQ(rig.model->num_submitted, 2);
  rig.run();
  EXPECT_EQ(rig.result(id), alone(r)[0]);
  EXPECT_EQ(rig.model->num_steps, 20);

  r.sampling.stop_token_ids = {alone(r)[0].tokens[8]};
  const auto stopped = rig.add(r);
  rig.run();
  EXPECT_EQ(rig.result(stopped), alone(r)[0]);
  EXPECT_EQ(rig.model->num_steps, 20 + std::ssize(rig.result(stopped).tokens) + 1);
  rig.expect_idle();
}

TEST(LlmCoreAhead, EventsOfAStepAreDeliveredTogether) {
  for (const bool asynchronous : {false, true}) {
    int num_calls = 0, num_events = 0, most = 0;
    bool is_inside = false;
    LlmOptions options;
    options.around_events = [&](const std::function<void()>& deliver) {
      const int before = num_events;
      is_inside = true;
      deliver();
      is_inside = false;
      ++num_calls;
      most = std::max(most, num_events - before);
    };
    Rig rig({.asynchronous = asynchronous}, options);
    const auto collect = rig.core->on_event;
    rig.core->on_event = [&](const ActiveRequest& request, Event&& event) {
      EXPECT_TRUE(is_inside);
      ++num_events;
      collect(request, std::move(event));
    };
    for (int i = 0; i < 5; ++i) {
      Request r = greedy({5, 6, 7 + i}, 20);
      r.sampling.ignore_eos = true;
      rig.add(r);
    }
    rig.run();
    EXPECT_EQ(num_events, 100);
    EXPECT_EQ(num_calls, rig.model->num_steps);
    EXPECT_EQ(most, 5);
  }
}

TEST(LlmCoreAhead, ARequestThatNeedsTheHostStopsRunningAheadForAsLongAsItIsThere) {
  Rig rig({.asynchronous = true});
  Request plain = greedy({5, 6, 7}, 30);
  plain.sampling.ignore_eos = true;
  const auto a = rig.add(plain);
  for (int i = 0; i < 5; ++i) rig.core->step();
  EXPECT_EQ(rig.model->num_submitted, 5);
  Request penalised = plain;
  penalised.sampling.presence_penalty = 1;
  penalised.sampling.max_tokens = 7;
  const auto b = rig.add(penalised);
  Request late = plain;  // until its end may be chosen
  late.sampling.ignore_eos = false;
  late.sampling.min_tokens = 4;
  const auto c = rig.add(late);
  rig.run();
  EXPECT_EQ(rig.result(a), alone(plain)[0]);
  EXPECT_EQ(rig.result(b), alone(penalised)[0]);
  EXPECT_EQ(rig.result(c), alone(late)[0]);
  EXPECT_EQ(rig.model->num_steps - rig.model->num_submitted, 7);
  rig.expect_idle();
}

TEST(LlmCoreAhead, CancellingWhileAStepIsInFlight) {
  Rig rig({.asynchronous = true});
  Request r = greedy({4, 5, 6, 7, 8}, 400);
  r.sampling.ignore_eos = true;
  const auto a = rig.add(r), b = rig.add(r);
  for (int i = 0; i < 5; ++i) rig.core->step();
  EXPECT_TRUE(rig.core->cancel(a));
  EXPECT_EQ(rig.result(a).reason, FinishReason::Abort);
  EXPECT_EQ(rig.result(a).tokens.size(), 4u);
  for (int i = 0; i < 5; ++i) rig.core->step();
  EXPECT_EQ(rig.result(b).tokens.size(), 9u);
  EXPECT_TRUE(rig.core->cancel(b));
  EXPECT_EQ(rig.core->blocks().num_used(), 0);
  EXPECT_TRUE(rig.core->has_work()) << "the step in flight";
  rig.run();
  EXPECT_EQ(rig.result(b).tokens.size(), 9u);
  Request other = greedy({9, 10, 11}, 30);
  const auto c = rig.add(other);
  rig.run();
  EXPECT_EQ(rig.result(c), alone(other)[0]);
  rig.expect_idle();
}

TEST(LlmCoreAhead, FailuresOfStepsInFlightEndTheirRequestsAndNoOthers) {
  for (const bool refused : {false, true}) {
    Rig rig({.throw_token = refused ? -1 : 3, .asynchronous = true, .refuse_token = refused ? 3 : INT32_MIN}, {.max_num_seqs = 2});
    const auto a = rig.add(greedy({4, 5}, 3));
    rig.core->step();
    const auto b = rig.add(greedy({3, 4}, 5)), c = rig.add(greedy({4, 5}, 5)), d = rig.add(greedy({4, 5}, 5));
    rig.run();
    EXPECT_EQ(rig.result(b).reason, FinishReason::Error);
    EXPECT_EQ(rig.result(b).error, refused ? "the fake model was asked to refuse" : "the fake model was asked to throw");
    EXPECT_EQ(rig.result(a).reason, FinishReason::Error) << "it was in that step";
    EXPECT_EQ(rig.result(a).tokens.size(), 1u);
    EXPECT_EQ(rig.result(c), alone(greedy({4, 5}, 5))[0]);
    EXPECT_EQ(rig.result(d), alone(greedy({4, 5}, 5))[0]);
    rig.expect_idle();
  }
  Rig rig({.nan_token = 3, .asynchronous = true});
  const auto good = rig.add(greedy({10, 11}, 20)), bad = rig.add(greedy({10, 3}, 20));
  rig.run();
  EXPECT_EQ(rig.result(good), alone(greedy({10, 11}, 20), {.nan_token = 3})[0]);
  EXPECT_EQ(rig.result(bad).reason, FinishReason::Error);
  EXPECT_NE(rig.result(bad).error.find("NaN"), std::string::npos);
  rig.expect_idle();
}

TEST(LlmCoreAhead, AnswersOfKnownLengthAreNotBegunBeforeTheyCanBeFinished) {
  for (const bool asynchronous : {false, true}) {
    Rig rig({.num_blocks = 100, .asynchronous = asynchronous}, {.max_num_seqs = 64, .max_num_batched_tokens = 200, .prefix_cache = false});
    std::mt19937 random(3);
    std::vector<Request> requests;
    for (int i = 0; i < 30; ++i) {
      requests.push_back(greedy(random_tokens(random, 20), 36 + i % 9));  // about 15 blocks at the end, 5 at first
      requests.back().sampling.ignore_eos = true;
    }
    expect_as_alone(rig, requests);
    EXPECT_EQ(rig.core->statistics().preemptions, 0);
    EXPECT_GE(rig.model->max_seqs, 6);
    EXPECT_LT(rig.model->num_steps, 30 * 44 / 5) << "six or more at a time";
  }
}

TEST(LlmCoreAhead, AnswersThatFillTheCacheExactlyRunTogether) {
  Rig rig({.num_blocks = 80}, {.max_num_seqs = 64, .max_num_batched_tokens = 64, .prefix_cache = false});
  std::mt19937 random(3);
  std::vector<Request> requests;
  for (int i = 0; i < 10; ++i) {
    requests.push_back(greedy(random_tokens(random, 20), 12));  // 8 blocks at the end
    requests.back().sampling.ignore_eos = true;
  }
  expect_as_alone(rig, requests);
  EXPECT_EQ(rig.model->max_seqs, 10);
  EXPECT_EQ(rig.core->statistics().preemptions, 0);
}

}  // namespace
}  // namespace tokamak::llm
