// Sequences from many clients, some of which do not wait for their answers: nothing is lost, order holds, and no sequence is executed twice
// at once.

#include <algorithm>
#include <atomic>
#include <random>

#include "tests/server/sequence_fixture.h"

namespace tokamak::server::test {
namespace {

using namespace std::chrono_literals;

class SequenceStress : public SequenceBatcherTest, public testing::WithParamInterface<const char*> {};

TEST_P(SequenceStress, OrderAndExclusivity) {
  constexpr int kThreads = 8, kSequences = 50, kRequests = 10;
  load(std::string("max_batch_size: 4 instance_group { count: 2 kind: KIND_CPU } sequence_batching { ") + GetParam() +
       " max_sequence_idle_microseconds: 60000000 " + kControls + "}");
  struct Seen {
    std::atomic<bool> is_executing = false;
    std::atomic<int> next = 0;
  };
  static std::map<uint64_t, Seen> seen;
  seen.clear();
  for (uint64_t id = 1; id <= kThreads; ++id) seen[id];
  std::atomic<int> wrong = 0, executed = 0;
  fake.behaviour = [&](const tkb_request* const* requests, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      const Row r = Row::of(*requests[i]);
      if (r.id == 0) continue;  // padding
      Seen& own = seen.at(r.id);
      if (own.is_executing.exchange(true)) ++wrong;
      if (r.value != own.next++) ++wrong;
      const int place = static_cast<int>(r.value) % kRequests;
      if (r.numbers.at("START") != (place == 0) || (r.numbers.at("END") == 2) != (place == kRequests - 1)) ++wrong;
      ++executed;
    }
    if (executed % 7 == 0) std::this_thread::yield();
    for (size_t i = 0; i < count; ++i) {
      if (requests[i]->correlation_id != 0) seen.at(requests[i]->correlation_id).is_executing = false;
      FakeBackend::double_it(*requests[i]);
    }
  };
  std::atomic<int> failed = 0;
  std::vector<std::thread> clients;
  for (int t = 1; t <= kThreads; ++t)
    clients.emplace_back([&, t] {
      std::vector<Answer> open;
      for (int i = 0; i < kSequences * kRequests; ++i) {
        const int place = i % kRequests;
        open.push_back(send(t, i, (place == 0 ? kStart : 0) | (place == kRequests - 1 ? kEnd : 0)));
        if (t % 2 == 0 || i % 100 == 99) {
          for (const Answer& a : open) failed += a.wait().error_code.has_value();
          open.clear();
        }
      }
    });
  for (std::thread& c : clients) c.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(executed, kThreads * kSequences * kRequests);
  EXPECT_EQ(statistics->pending(), 0);
  EXPECT_EQ(statistics->totals().success.count, static_cast<uint64_t>(kThreads * kSequences * kRequests));
  fake.behaviour = nullptr;
}

// Whatever clients do, and however sequences end, each request has one final response, and the model can be unloaded.
TEST_P(SequenceStress, EveryRequestIsAnsweredOnce) {
  constexpr int kThreads = 6, kRequests = 600;
  load(std::string("max_batch_size: 4 instance_group { count: 2 kind: KIND_CPU } sequence_batching { ") + GetParam() +
       " max_sequence_idle_microseconds: 2000 " + kControls + "}");
  std::atomic<int> executed = 0;
  fake.behaviour = [&](const tkb_request* const* requests, size_t count) {
    if (++executed % 5 == 0) std::this_thread::sleep_for(1ms);
    if (executed % 50 == 0) throw std::runtime_error("now and then");
    for (size_t i = 0; i < count; ++i) FakeBackend::double_it(*requests[i]);
  };
  std::vector<std::atomic<int>> finals(kThreads * kRequests);
  std::vector<std::thread> clients;
  for (int t = 0; t < kThreads; ++t)
    clients.emplace_back([&, t] {
      std::mt19937 random(t);
      std::vector<std::shared_ptr<Cancellation>> open;
      for (int i = 0; i < kRequests; ++i) {
        auto r =
            request({.number = 1 + random() % 12}, i, (random() % 3 == 0 ? kStart : 0) | (random() % 4 == 0 ? kEnd : 0), 1 + random() % 2);
        r->model_name = "m";
        if (random() % 8 == 0) r->timeout_us = 500;
        r->on_response = [&finals, n = t * kRequests + i](const InferResponse& response) { finals[n] += response.is_final ? 1 : 100; };
        open.push_back(r->cancellation);
        model->infer(std::move(r));
        if (random() % 6 == 0) open[random() % open.size()]->cancel();
        if (random() % 20 == 0) std::this_thread::sleep_for(1ms);
      }
    });
  for (std::thread& c : clients) c.join();
  model.reset();
  EXPECT_TRUE(std::all_of(finals.begin(), finals.end(), [](const std::atomic<int>& n) { return n == 1; }));
  EXPECT_EQ(statistics->pending(), 0);
  const auto totals = statistics->totals();
  EXPECT_EQ(totals.success.count + totals.fail.count, static_cast<uint64_t>(kThreads * kRequests));
  EXPECT_GT(totals.failures[static_cast<int>(FailureReason::Canceled)], 0u);
  EXPECT_GT(totals.success.count, 0u);
}

INSTANTIATE_TEST_SUITE_P(Strategies, SequenceStress,
                         testing::Values("direct { }", "direct { max_queue_delay_microseconds: 500 minimum_slot_utilization: 0.5 }",
                                         "oldest { max_candidate_sequences: 3 }",
                                         "oldest { max_candidate_sequences: 16 preferred_batch_size: 4 max_queue_delay_microseconds: 500 "
                                         "preserve_ordering: true }"));

}  // namespace
}  // namespace tokamak::server::test
