// Requests with before_inline: executed by the thread that sends them, when nothing is lost by it.

#include "server/rate_limiter.h"
#include "tests/server/fake_backend.h"

namespace tokamak::server::test {
namespace {

using namespace std::chrono_literals;

class InlineExecutionTest : public FakeBackendTest {
 protected:
  void load_anywhere(const std::string& config) {
    fake.description = R"({"any_thread": true, "can_batch": true,
                           "inputs": [{"name": "IN", "data_type": "TYPE_INT32", "shape": [-1, -1]}],
                           "outputs": [{"name": "OUT", "data_type": "TYPE_INT32", "shape": [-1, -1]}]})";
    load(config);
  }
  Answer send_inline(int32_t value) {
    auto request = row(value);
    request->before_inline = [](int64_t) {};
    return send(std::move(request));
  }
  // Sends until the model is known to be quick, which a busy machine may delay; true: a request was answered before infer() returned.
  bool becomes_inline() {
    for (int i = 0; i < 200; ++i) {
      const Answer answer = send_inline(i);
      if (answer.is_answered() && i > 0 && thread_of_last() == std::this_thread::get_id()) return true;
      answer.wait();
    }
    return false;
  }
  void note_threads() {
    fake.behaviour = [this](const tkb_request* const* requests, size_t count) {
      last_thread_ = std::this_thread::get_id();
      for (size_t i = 0; i < count; ++i) FakeBackend::double_it(*requests[i]);
    };
  }
  std::thread::id thread_of_last() const { return last_thread_; }

  std::atomic<std::thread::id> last_thread_;
};

TEST_F(InlineExecutionTest, AnIdleInstanceIsLentToTheSender) {
  note_threads();
  load_anywhere("max_batch_size: 4 dynamic_batching { }");
  EXPECT_TRUE(becomes_inline());
  const uint64_t before = statistics->totals().success.count;
  const Answer answer = send_inline(21);
  EXPECT_EQ(answer.wait().outputs.at(0).tensor.int_at(0), 42);
  EXPECT_EQ(statistics->totals().success.count, before + 1);
  EXPECT_EQ(statistics->totals().execution_count, before + 1);
  EXPECT_EQ(statistics->pending(), 0);
  const Answer other = send(row(4));  // the instance is its own again
  EXPECT_EQ(other.wait().outputs.at(0).tensor.int_at(0), 8);
  EXPECT_NE(thread_of_last(), std::this_thread::get_id());
}

TEST_F(InlineExecutionTest, OnlyWhereTheBackendSaysSo) {
  note_threads();
  load("max_batch_size: 4");
  EXPECT_FALSE(becomes_inline());
}

TEST_F(InlineExecutionTest, NotWithARateLimiter) {
  note_threads();
  settings->rate_limiter = std::make_shared<RateLimiter>();
  load_anywhere("max_batch_size: 4");
  EXPECT_FALSE(becomes_inline());
}

TEST_F(InlineExecutionTest, NotWhereARequestWaitsForOthers) {
  note_threads();
  load_anywhere("max_batch_size: 4 dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 1000 }");
  EXPECT_FALSE(becomes_inline());
}

TEST_F(InlineExecutionTest, SlowModelsKeepTheirThreads) {
  fake.behaviour = [this](const tkb_request* const* requests, size_t count) {
    last_thread_ = std::this_thread::get_id();
    std::this_thread::sleep_for(2ms);
    for (size_t i = 0; i < count; ++i) FakeBackend::double_it(*requests[i]);
  };
  load_anywhere("max_batch_size: 4");
  for (int i = 0; i < 5; ++i) {
    send_inline(i).wait();
    EXPECT_NE(thread_of_last(), std::this_thread::get_id());
  }
}

TEST_F(InlineExecutionTest, WhatComesMeanwhileIsABatch) {
  note_threads();
  load_anywhere("max_batch_size: 4 dynamic_batching { }");
  ASSERT_TRUE(becomes_inline());
  fake.open(false);
  const size_t before = fake.batch_sizes().size();
  std::thread sender([&] { send_inline(1).wait(); });
  fake.await_waiting(1);
  std::vector<Answer> queued;
  for (int i = 0; i < 3; ++i) queued.push_back(send_inline(10 + i));
  EXPECT_EQ(fake.batch_sizes().size(), before + 1);
  fake.open();
  sender.join();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(queued[i].wait().outputs.at(0).tensor.int_at(0), 20 + 2 * i);
  EXPECT_EQ(fake.batch_sizes().back(), 3u);
  EXPECT_EQ(fake.batch_sizes().size(), before + 2);
}

TEST_F(InlineExecutionTest, OtherInstancesGoOn) {
  note_threads();
  load_anywhere("max_batch_size: 4 instance_group { count: 2 kind: KIND_CPU }");
  ASSERT_TRUE(becomes_inline());
  fake.open(false);
  std::thread sender([&] { send_inline(1).wait(); });
  fake.await_waiting(1);
  const Answer second = send(row(2));
  fake.await_waiting(2);  // the other instance has it
  fake.open();
  sender.join();
  EXPECT_EQ(second.wait().outputs.at(0).tensor.int_at(0), 4);
}

TEST_F(InlineExecutionTest, ManyThreadsLoseNothing) {
  load_anywhere("max_batch_size: 16 dynamic_batching { } instance_group { count: 2 kind: KIND_CPU }");
  std::atomic<int> wrong = 0;
  std::vector<std::thread> clients;
  for (int c = 0; c < 8; ++c)
    clients.emplace_back([&, c] {
      for (int i = 0; i < 300; ++i) {
        const int value = c * 1000 + i;
        const Answer answer = i % 3 == 0 ? send(row(value)) : send_inline(value);
        if (i % 7 == 3) answer.cancellation->cancel();
        const InferResponse response = answer.wait();
        if (response.error_code ? response.error_code != ErrorCode::Cancelled : response.outputs[0].tensor.int_at(1) != 2 * value) ++wrong;
      }
    });
  for (std::thread& t : clients) t.join();
  EXPECT_EQ(wrong, 0);
  const auto totals = statistics->totals();
  EXPECT_EQ(totals.success.count + totals.fail.count, 2400u);
  EXPECT_EQ(statistics->pending(), 0);
}

}  // namespace
}  // namespace tokamak::server::test
