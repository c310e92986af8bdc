// Which requests become one execution, when, and in which order they are answered.

#include "server/dynamic_batcher.h"

#include "tests/server/fake_backend.h"

namespace tokamak::server::test {
namespace {

using namespace std::chrono_literals;
using Sizes = std::vector<size_t>;
using Clock = std::chrono::steady_clock;

class DynamicBatcherTest : public FakeBackendTest {
 protected:
  // Holds the only instance with request number 0, so that what is sent next queues up.
  Answer hold() {
    fake.open(false);
    Answer first = send(row(0));
    fake.await_waiting(1);
    return first;
  }
  std::vector<Answer> send_rows(int from, int to) {
    std::vector<Answer> answers;
    for (int i = from; i < to; ++i) answers.push_back(send(row(i)));
    return answers;
  }
  static void expect_doubled(const std::vector<Answer>& answers, int from) {
    for (size_t i = 0; i < answers.size(); ++i) {
      const InferResponse response = answers[i].wait();
      ASSERT_FALSE(response.error_code) << response.error;
      EXPECT_EQ(response.outputs.at(0).tensor.int_at(0), 2 * (from + static_cast<int>(i)));
    }
  }
};

TEST_F(DynamicBatcherTest, WithoutItEveryRequestIsAnExecution) {
  load("max_batch_size: 8");
  const Answer first = hold();
  const auto answers = send_rows(1, 4);
  fake.open();
  expect_doubled(answers, 1);
  EXPECT_EQ(fake.batch_sizes(), (Sizes{1, 1, 1, 1}));
}

TEST_F(DynamicBatcherTest, TakesWhatIsThereUpToTheBatchSize) {
  load("max_batch_size: 4 dynamic_batching { }");
  const Answer first = hold();
  const auto answers = send_rows(1, 7);
  fake.open();
  expect_doubled(answers, 1);
  EXPECT_EQ(fake.batch_sizes(), (Sizes{1, 4, 2}));
  const auto totals = statistics->totals();
  EXPECT_EQ(totals.inference_count, 7u);
  EXPECT_EQ(totals.execution_count, 3u);
  EXPECT_EQ(totals.success.count, 7u);
  EXPECT_EQ(statistics->pending(), 0);
}

TEST_F(DynamicBatcherTest, PreferredSizesComeFirst) {
  load("max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 2, 6 ] max_queue_delay_microseconds: 100000 }");
  fake.open(false);
  auto answers = send_rows(0, 2);  // two are a preferred size
  fake.await_waiting(1);
  for (Answer& a : send_rows(2, 11)) answers.push_back(std::move(a));  // six, then two, then one that waits for a second
  fake.open();
  expect_doubled(answers, 0);
  EXPECT_EQ(fake.batch_sizes(), (Sizes{2, 6, 2, 1}));
}

TEST_F(DynamicBatcherTest, DelayBoundsWaiting) {
  load("max_batch_size: 8 dynamic_batching { preferred_batch_size: 8 max_queue_delay_microseconds: 50000 }");
  const auto start = Clock::now();
  const auto answers = send_rows(0, 3);
  expect_doubled(answers, 0);
  const auto took = Clock::now() - start;
  EXPECT_GE(took, 50ms);
  EXPECT_LT(took, 5s);
  EXPECT_EQ(fake.batch_sizes(), (Sizes{3}));
}

TEST_F(DynamicBatcherTest, OtherShapesAreOtherBatches) {
  load("max_batch_size: 8 dynamic_batching { }");
  const Answer first = hold();
  std::vector<Answer> answers;
  for (int64_t columns : {2, 2, 3, 3, 2}) answers.push_back(send(row(1, columns)));
  fake.open();
  for (const Answer& a : answers) EXPECT_FALSE(a.wait().error_code);
  EXPECT_EQ(fake.batch_sizes(), (Sizes{1, 2, 2, 1}));
}

TEST_F(DynamicBatcherTest, RaggedInputsShareABatch) {
  load("max_batch_size: 8 dynamic_batching { }",
       "input { name: \"IN\" data_type: TYPE_INT32 dims: -1 allow_ragged_batch: true } output { name: \"OUT\" data_type: TYPE_INT32 dims: "
       "-1 }");
  const Answer first = hold();
  std::vector<Answer> answers;
  for (int64_t columns : {2, 3, 4}) answers.push_back(send(row(1, columns)));
  fake.open();
  for (const Answer& a : answers) EXPECT_FALSE(a.wait().error_code);
  EXPECT_EQ(fake.batch_sizes(), (Sizes{1, 3}));
}

TEST_F(DynamicBatcherTest, RowsCountNotRequests) {
  load("max_batch_size: 4 dynamic_batching { }");
  const Answer first = hold();
  std::vector<Answer> answers;
  for (int64_t rows : {3, 2, 2, 1}) answers.push_back(send(row(1, 2, rows)));
  fake.open();
  for (const Answer& a : answers) EXPECT_FALSE(a.wait().error_code);
  EXPECT_EQ(fake.batch_sizes(), (Sizes{1, 1, 2, 1}));
}

TEST_F(DynamicBatcherTest, OptionalInputsBatchWithTheSameSet) {
  load("max_batch_size: 8 dynamic_batching { }",
       "input { name: \"IN\" data_type: TYPE_INT32 dims: 2 } input { name: \"MORE\" data_type: TYPE_INT32 dims: 2 optional: true } "
       "output { name: \"OUT\" data_type: TYPE_INT32 dims: 2 } ");
  const Answer first = hold();
  std::vector<Answer> answers;
  for (bool has_more : {false, false, true, true, false}) {
    auto request = row(1);
    if (has_more) request->inputs.push_back({.name = "MORE", .tensor = Tensor::zeros(DType::I32, {1, 2})});
    answers.push_back(send(std::move(request)));
  }
  fake.open();
  for (const Answer& a : answers) EXPECT_FALSE(a.wait().error_code);
  EXPECT_EQ(fake.batch_sizes(), (Sizes{1, 2, 2, 1}));
}

TEST_F(DynamicBatcherTest, FullQueueRefuses) {
  load("max_batch_size: 8 dynamic_batching { default_queue_policy { max_queue_size: 2 } }");
  const Answer first = hold();
  const auto answers = send_rows(1, 3);
  const InferResponse refused = send(row(9)).wait();
  EXPECT_EQ(refused.error_code, ErrorCode::Unavailable);
  EXPECT_EQ(refused.error, "[request id: <id_unknown>] Exceeds maximum queue size");
  fake.open();
  expect_doubled(answers, 1);
  EXPECT_EQ(statistics->totals().failures[static_cast<int>(FailureReason::Rejected)], 1u);
}

TEST_F(DynamicBatcherTest, LateRequestsAreRefused) {
  load("max_batch_size: 1 dynamic_batching { default_queue_policy { default_timeout_microseconds: 20000 } }");
  const Answer first = hold();
  const Answer late = send(row(1));
  std::this_thread::sleep_for(40ms);
  fake.open();
  const InferResponse response = late.wait();
  EXPECT_EQ(response.error_code, ErrorCode::Unavailable);
  EXPECT_NE(response.error.find("Request timeout expired"), std::string::npos);
  EXPECT_FALSE(first.wait().error_code);
  EXPECT_EQ(fake.batch_sizes(), (Sizes{1}));
  EXPECT_EQ(statistics->pending(), 0);
}

TEST_F(DynamicBatcherTest, LateRequestsGoToTheEnd) {
  load("max_batch_size: 1 dynamic_batching { default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 20000 } }");
  const Answer first = hold();
  auto answers = send_rows(1, 2);
  std::this_thread::sleep_for(40ms);
  for (Answer& a : send_rows(2, 3)) answers.push_back(std::move(a));
  fake.open();
  expect_doubled(answers, 1);
  EXPECT_EQ(fake.seen(), (std::vector<std::vector<int64_t>>{{0}, {2}, {1}}));
}

TEST_F(DynamicBatcherTest, RequestsOnlyShortenTheirTimeout) {
  load(
      "max_batch_size: 1 dynamic_batching { default_queue_policy { default_timeout_microseconds: 60000000 allow_timeout_override: true } "
      "}");
  const Answer first = hold();
  auto shorter = row(1);
  shorter->timeout_us = 10'000;
  const Answer late = send(std::move(shorter));
  auto longer = row(2);
  longer->timeout_us = 600'000'000'000;
  const Answer patient = send(std::move(longer));
  std::this_thread::sleep_for(30ms);
  fake.open();
  EXPECT_EQ(late.wait().error_code, ErrorCode::Unavailable);
  EXPECT_FALSE(patient.wait().error_code);
}

TEST_F(DynamicBatcherTest, PrioritiesGoFirst) {
  load("max_batch_size: 2 dynamic_batching { priority_levels: 3 default_priority_level: 2 }");
  const Answer first = hold();
  std::vector<Answer> answers;
  for (const auto& [value, priority] : std::vector<std::pair<int, uint64_t>>{{1, 3}, {2, 0}, {3, 1}, {4, 2}, {5, 1}, {6, 9}}) {
    auto request = row(value);
    request->priority = priority;
    answers.push_back(send(std::move(request)));
  }
  fake.open();
  for (const Answer& a : answers) a.wait();
  EXPECT_EQ(fake.seen(), (std::vector<std::vector<int64_t>>{{0}, {3, 5}, {2, 4}, {6, 1}}));
}

TEST_F(DynamicBatcherTest, OrderingIsPreservedAcrossInstances) {
  load("max_batch_size: 1 dynamic_batching { preserve_ordering: true } instance_group { count: 2 kind: KIND_CPU }");
  std::promise<void> release;
  fake.behaviour = [&, future = release.get_future().share()](const tkb_request* const* requests, size_t) {
    int32_t first = 0;
    std::memcpy(&first, requests[0]->inputs[0].data, sizeof first);
    if (first == 0) future.wait();
    FakeBackend::double_it(*requests[0]);
  };
  std::mutex mutex;
  std::vector<int64_t> order;
  std::promise<void> all;
  for (int i = 0; i < 6; ++i) {
    auto request = row(i);
    request->on_response = [&](const InferResponse& response) {
      const std::lock_guard lock(mutex);
      order.push_back(response.outputs.at(0).tensor.int_at(0) / 2);
      if (order.size() == 6) all.set_value();
    };
    model->infer(std::move(request));
  }
  while (fake.batch_sizes().size() < 6) std::this_thread::sleep_for(1ms);
  {
    const std::lock_guard lock(mutex);
    EXPECT_TRUE(order.empty());
  }
  release.set_value();
  ASSERT_EQ(all.get_future().wait_for(20s), std::future_status::ready);
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
}

TEST_F(DynamicBatcherTest, CancelledWhileQueuedIsAnsweredAtOnce) {
  load("max_batch_size: 4 dynamic_batching { }");
  const Answer first = hold();
  auto answers = send_rows(1, 4);
  answers[1].cancellation->cancel();
  const InferResponse cancelled = answers[1].wait();  // while the instance is still held
  EXPECT_EQ(cancelled.error_code, ErrorCode::Cancelled);
  fake.open();
  EXPECT_FALSE(answers[0].wait().error_code);
  EXPECT_FALSE(answers[2].wait().error_code);
  EXPECT_EQ(fake.batch_sizes(), (Sizes{1, 2}));
  EXPECT_EQ(statistics->totals().failures[static_cast<int>(FailureReason::Canceled)], 1u);
  EXPECT_EQ(statistics->pending(), 0);
  answers[2].cancellation->cancel();  // too late for anything
}

TEST_F(DynamicBatcherTest, UnloadingFinishesWhatIsQueued) {
  load("max_batch_size: 4 dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 60000000 }");
  auto answers = send_rows(0, 3);
  model.reset();  // does not wait the minute
  expect_doubled(answers, 0);
}

TEST_F(DynamicBatcherTest, ManyThreadsLoseNothing) {
  load("max_batch_size: 16 dynamic_batching { max_queue_delay_microseconds: 100 } instance_group { count: 2 kind: KIND_CPU }");
  std::atomic<int> wrong = 0;
  std::vector<std::thread> clients;
  for (int c = 0; c < 8; ++c)
    clients.emplace_back([&, c] {
      for (int i = 0; i < 200; ++i) {
        const int value = c * 1000 + i;
        const Answer answer = send(row(value));
        if (i % 7 == 3) answer.cancellation->cancel();
        const InferResponse response = answer.wait();
        if (response.error_code ? response.error_code != ErrorCode::Cancelled : response.outputs[0].tensor.int_at(1) != 2 * value) ++wrong;
      }
    });
  for (std::thread& t : clients) t.join();
  EXPECT_EQ(wrong, 0);
  const auto totals = statistics->totals();
  EXPECT_EQ(totals.success.count + totals.fail.count, 1600u);
  EXPECT_EQ(statistics->pending(), 0);
}

}  // namespace
}  // namespace tokamak::server::test
