// LlmEngine: threads, callbacks, polling, shutdown. What it answers is tested in llm_core_test.cc.

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <thread>

#include "tests/llm/fake_model.h"

namespace tokamak::llm {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<StepModel> fake(int num_blocks = 1024, int wrong_percent = 0) {
  return std::make_unique<FakeModel>(FakeModelOptions{.num_blocks = num_blocks, .wrong_percent = wrong_percent});
}

Request request(std::vector<int32_t> prompt, int max_tokens, bool endless = false) {
  Request r;
  r.prompt_ids = std::move(prompt);
  r.sampling.temperature = 0;
  r.sampling.max_tokens = max_tokens;
  r.sampling.ignore_eos = endless;
  return r;
}

// Fetches until the last event.
Result fetch(LlmEngine& engine, RequestId id) {
  Result result;
  for (;;) {
    const auto event = engine.next_event(id);
    result.tokens.insert(result.tokens.end(), event->token_ids.begin(), event->token_ids.end());
    if (event->finish_reason != FinishReason::None) result.reason = event->finish_reason;
    if (event->is_last) return result;
  }
}

TEST(LlmEngine, PollingGivesTheAnswer) {
  LlmEngine engine(fake(), {});
  const Request r = request({5, 6, 7}, 20);
  const RequestId id = engine.submit(r);
  EXPECT_EQ(fetch(engine, id), Result({.tokens = alone(r)[0].tokens, .reason = alone(r)[0].reason}));
  EXPECT_THROW(engine.next_event(id), Error) << "forgotten";
  EXPECT_THROW(engine.next_event(12345), Error);
  const Statistics s = engine.statistics();
  EXPECT_EQ(s.requests_finished, 1);
  EXPECT_EQ(s.blocks_used, 0);
  EXPECT_EQ(s.blocks_total, 1024);
  EXPECT_EQ(s.prompt_tokens, 3);
  EXPECT_GT(s.num_steps, 0);
  EXPECT_GT(s.step_s, 0);
}

TEST(LlmEngine, SeveralRequestsArriveTogetherOrNotAtAll) {
  auto model = std::make_unique<FakeModel>(FakeModelOptions{.num_blocks = 1024});
  const FakeModel& fake_model = *model;
  LlmEngine engine(std::move(model), {.max_num_seqs = 16, .max_waiting = 10});
  const Request r = request({5, 6, 7}, 20);
  const auto ids = engine.submit(std::vector<Request>(10, r));
  ASSERT_EQ(ids.size(), 10u);
  for (const RequestId id : ids) EXPECT_EQ(fetch(engine, id).tokens, alone(r)[0].tokens);
  EXPECT_EQ(fake_model.max_seqs, 10);
  EXPECT_EQ(engine.statistics().num_steps, std::ssize(alone(r)[0].tokens));
  EXPECT_THROW(engine.submit(std::vector<Request>(11, r)), Error);
  auto with_bad = std::vector<Request>(2, r);
  with_bad[1].prompt_ids.clear();
  EXPECT_THROW(engine.submit(with_bad), Error);
  EXPECT_EQ(engine.statistics().requests_submitted, 10);
}

TEST(LlmEngine, CallbacksGiveTheAnswerAndMaySubmit) {
  std::mutex mutex;
  std::condition_variable done;
  std::vector<int32_t> first, second;
  bool is_done = false;
  const Request r = request({5, 6, 7}, 12);
  {
    LlmEngine engine(fake(), {});
    Request chained = r;
    chained.on_event = [&](const Event& e) {
      first.insert(first.end(), e.token_ids.begin(), e.token_ids.end());
      if (!e.is_last) return;
      Request next = r;
      next.on_event = [&](const Event& e2) {
        second.insert(second.end(), e2.token_ids.begin(), e2.token_ids.end());
        if (!e2.is_last) return;
        EXPECT_THROW(engine.shutdown(true), Error);
        const std::lock_guard lock(mutex);
        is_done = true;
        done.notify_one();
      };
      engine.submit(std::move(next));
    };
    const RequestId id = engine.submit(std::move(chained));
    EXPECT_THROW(engine.next_event(id, 0ms), Error) << "it has a callback";
    std::unique_lock lock(mutex);
    done.wait(lock, [&] { return is_done; });
  }
  EXPECT_EQ(first, alone(r)[0].tokens);
  EXPECT_EQ(second, first);
}

TEST(LlmEngine, AThrowingCallbackCancelsItsRequestOnly) {
  LlmEngine engine(fake(), {});
  std::atomic<int> calls = 0;
  Request bad = request({5, 6, 7}, 400, true);
  bad.on_event = [&](const Event&) {
    ++calls;
    throw std::runtime_error("the client has gone");
  };
  engine.submit(std::move(bad));
  const Request good = request({8, 9}, 30);
  EXPECT_EQ(fetch(engine, engine.submit(good)).tokens, alone(good)[0].tokens);
  while (engine.statistics().requests_cancelled == 0) std::this_thread::yield();
  EXPECT_EQ(engine.statistics().blocks_used, 0);
  EXPECT_LT(calls, 20);
}

TEST(LlmEngine, CancelEndsARequest) {
  LlmEngine engine(std::make_unique<FakeModel>(FakeModelOptions{.context_length = 100000, .num_blocks = 40000}), {});
  const RequestId id = engine.submit(request({5, 6, 7}, 90000, true));
  EXPECT_TRUE(engine.next_event(id));
  EXPECT_TRUE(engine.cancel(id));
  EXPECT_EQ(fetch(engine, id).reason, FinishReason::Abort);
  EXPECT_FALSE(engine.cancel(id));
  EXPECT_FALSE(engine.cancel(777));
  EXPECT_EQ(engine.statistics().blocks_used, 0);
}

TEST(LlmEngine, TimeoutsAndLimits) {
  LlmEngine engine(std::make_unique<FakeModel>(FakeModelOptions{.context_length = 100000, .num_blocks = 40000}),
                   {.max_num_seqs = 1, .max_waiting = 2});
  const RequestId running = engine.submit(request({5, 6, 7}, 90000, true));
  while (engine.statistics().num_running == 0) std::this_thread::yield();
  const RequestId waiting = engine.submit(request({5}, 5));
  engine.submit(request({5}, 5));
  EXPECT_FALSE(engine.next_event(waiting, 5ms)) << "nothing yet";
  try {
    engine.submit(request({5}, 5));
    ADD_FAILURE() << "the queue is full";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::ResourceExhausted);
  }
  EXPECT_THROW(engine.submit(request({}, 5)), Error);
  engine.cancel(running);
  EXPECT_EQ(fetch(engine, waiting).tokens.size(), 5u);
}

TEST(LlmEngine, ShutdownDrainsOrAborts) {
  const Request r = request({5, 6, 7}, 40, true);
  for (const bool drain : {true, false}) {
    LlmEngine engine(std::make_unique<FakeModel>(FakeModelOptions{.context_length = 100000, .num_blocks = 40000}), {});
    std::vector<RequestId> ids;
    for (int i = 0; i < 10; ++i) ids.push_back(engine.submit(drain ? r : request({5, 6, 7}, 90000, true)));
    engine.shutdown(drain);
    EXPECT_THROW(engine.submit(r), Error);
    for (const RequestId id : ids) EXPECT_EQ(fetch(engine, id).reason, drain ? FinishReason::Length : FinishReason::Abort);
    EXPECT_EQ(engine.statistics().blocks_used, 0);
    engine.shutdown(true);
  }
}

TEST(LlmEngine, StepsAheadEndWithTheEngine) {
  const Request r = request({5, 6, 7}, 40, true);
  for (const bool drain : {true, false}) {
    LlmEngine engine(std::make_unique<FakeModel>(FakeModelOptions{.context_length = 100000, .num_blocks = 40000, .asynchronous = true}),
                     {});
    std::vector<RequestId> ids;
    for (int i = 0; i < 10; ++i) ids.push_back(engine.submit(drain ? r : request({5, 6, 7}, 90000, true)));
    EXPECT_TRUE(drain || engine.cancel(ids[3]));
    engine.shutdown(drain);
    for (const RequestId id : ids) {
      const Result result = fetch(engine, id);
      EXPECT_EQ(result.reason, drain ? FinishReason::Length : FinishReason::Abort);
      EXPECT_TRUE(!drain || result.tokens == alone(r)[0].tokens);
    }
    EXPECT_EQ(engine.statistics().blocks_used, 0);
  }
}

TEST(LlmEngine, DraftMethodNeedsADraft) {
  EXPECT_THROW(LlmEngine(fake(), {.speculative = {.method = SpeculativeOptions::Method::Draft}}), Error);
}

// Clients on several threads, some polling, some with callbacks, some cancelling, all correct. Runs under the thread sanitizer too.
TEST(LlmEngine, ManyClientsAtOnce) {
  LlmEngine engine(
      fake(48),
      {.max_num_seqs = 16, .max_num_batched_tokens = 64, .speculative = {.method = SpeculativeOptions::Method::Draft, .num_tokens = 3}},
      fake(48, 30));
  constexpr int kClients = 8, kRequests = 25;
  std::atomic<int> finished = 0, cancelled = 0;
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c)
    clients.emplace_back([&, c] {
      std::mt19937 random(c);
      for (int i = 0; i < kRequests; ++i) {
        Request r = request(random_tokens(random, 1 + random() % 30), 1 + static_cast<int>(random() % 30));
        r.priority = static_cast<int>(random() % 3);
        const auto expected = alone(r)[0].tokens;
        std::vector<int32_t> tokens;
        FinishReason reason = FinishReason::None;
        const bool cancels = random() % 5 == 0;
        if (i % 2 == 0) {
          const RequestId id = engine.submit(r);
          if (cancels) engine.cancel(id);
          const Result result = fetch(engine, id);
          tokens = result.tokens, reason = result.reason;
        } else {
          std::mutex mutex;
          std::condition_variable done;
          bool is_done = false;
          r.on_event = [&](const Event& e) {
            const std::lock_guard lock(mutex);
            tokens.insert(tokens.end(), e.token_ids.begin(), e.token_ids.end());
            if (!e.is_last) return;
            reason = e.finish_reason;
            is_done = true;
            done.notify_one();
          };
          const RequestId id = engine.submit(r);
          if (cancels) engine.cancel(id);
          std::unique_lock lock(mutex);
          done.wait(lock, [&] { return is_done; });
        }
        (void)engine.statistics();
        if (reason == FinishReason::Abort) {
          ++cancelled;
          EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), expected.begin())) << "what was delivered is right all the same";
        } else {
          ++finished;
          EXPECT_EQ(tokens, expected);
        }
      }
    });
  for (auto& client : clients) client.join();
  EXPECT_EQ(finished + cancelled, kClients * kRequests);
  EXPECT_GT(finished, kClients * kRequests / 2);
  engine.shutdown(true);
  const Statistics s = engine.statistics();
  EXPECT_EQ(s.requests_submitted, kClients * kRequests);
  EXPECT_EQ(s.blocks_used, 0);
  EXPECT_EQ(s.num_running + s.num_waiting, 0);
  EXPECT_GT(s.accepted_tokens, 0);
}

}  // namespace
}  // namespace tokamak::llm
