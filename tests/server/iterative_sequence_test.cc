// Sequences that a model goes on with by itself (iterative_sequence): one request, executed until the model has answered it.

#include "tests/server/sequence_fixture.h"

namespace tokamak::server::test {
namespace {

using namespace std::chrono_literals;

// A model that counts IN down, and answers with how often it was executed.
class IterativeTest : public SequenceBatcherTest {
 protected:
  void count_down() {
    answer_with([this](const tkb_request& r) {
      {
        const std::lock_guard lock(mutex_);
        if (r.flags & TKB_SEQUENCE_START) counts_[r.correlation_id] = 0;
        if (++counts_[r.correlation_id] >= Row::of(r).value) {
          FakeBackend::answer(r, {counts_[r.correlation_id]}, {1, 1});
          return;
        }
      }
      if (tkb_error* error = server_functions().reschedule(&r, nullptr, 0)) {
        const tkb_response response = {.error = error, .is_final = 1};
        server_functions().respond(&r, &response);
      }
    });
  }
  std::mutex mutex_;
  std::map<uint64_t, int32_t> counts_;
};

TEST_F(IterativeTest, RequestsGoOnTogetherWithNewOnes) {
  load_oldest("max_candidate_sequences: 3", "max_batch_size: 4", "iterative_sequence: true");
  count_down();
  fake.open(false);
  const Answer three = send(row(3, 1));  // without an id
  fake.await_waiting(1);
  const Answer two = send(row(2, 1)), five = send(row(5, 1)), waiting = send(row(1, 1));
  await_pending(3);
  fake.open();
  EXPECT_EQ(text_of(three), "3");
  EXPECT_EQ(text_of(two), "2");
  EXPECT_EQ(text_of(five), "5");
  EXPECT_EQ(text_of(waiting), "1");
  const std::vector<std::vector<int64_t>> seen = values();
  ASSERT_GE(seen.size(), 6u);
  EXPECT_EQ(seen[0], (std::vector<int64_t>{3}));
  EXPECT_EQ(seen[1], (std::vector<int64_t>{2, 5, 3}));
  EXPECT_EQ(seen[2], (std::vector<int64_t>{2, 5, 3}));
  EXPECT_EQ(seen.back(), (std::vector<int64_t>{5}));
  EXPECT_EQ(batches()[0][0].numbers.at("START"), 1);
  EXPECT_EQ(batches()[1][2].numbers.at("START"), 0);
  const auto totals = statistics->totals();
  EXPECT_EQ(totals.success.count, 4u);
  EXPECT_EQ(totals.inference_count, 4u);
  EXPECT_EQ(totals.execution_count, seen.size());
  EXPECT_EQ(statistics->pending(), 0);
  EXPECT_EQ(ask(7, 1), start_error(7));  // ids of the clients' own need a START as always
  EXPECT_EQ(ask(7, 2, kStart), "2");
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(ask(7, 1), start_error(7));  // the request was the sequence
}

TEST_F(IterativeTest, DirectAndUnload) {
  load_direct("iterative_sequence: true", "max_batch_size: 2");
  count_down();
  fake.open(false);
  std::vector<Answer> answers;
  for (int i = 1; i <= 6; ++i) answers.push_back(send(row(2 * i, 1)));
  fake.await_waiting(1);
  std::thread unload([this] { model.reset(); });
  std::this_thread::sleep_for(20ms);
  fake.open();
  unload.join();
  for (int i = 1; i <= 6; ++i) EXPECT_EQ(text_of(answers[i - 1]), std::to_string(2 * i));
}

TEST_F(IterativeTest, ResponsesInBetweenAndCancellation) {
  load_oldest("max_candidate_sequences: 3", "max_batch_size: 4 model_transaction_policy { decoupled: true }", "iterative_sequence: true");
  std::atomic<int> executions = 0;
  answer_with([&](const tkb_request& r) {
    ++executions;
    if (Row::of(r).value == 4) return static_cast<void>(server_functions().reschedule(&r, nullptr, 0));  // for ever
    const int count = ++counts_[r.correlation_id];
    FakeBackend::answer(r, {count}, {1, 1}, count == 3);
    if (count < 3) server_functions().reschedule(&r, nullptr, 0);
  });
  const auto responses = send(row(1, 1)).all();
  ASSERT_EQ(responses.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(responses[i].outputs.at(0).tensor.int_at(0), i + 1);
  const Answer endless = send(row(4, 1));
  while (executions < 10) std::this_thread::sleep_for(1ms);
  endless.cancellation->cancel();
  EXPECT_EQ(endless.wait().error_code, ErrorCode::Cancelled);
}

TEST_F(IterativeTest, OnlyIterativeModelsMayAskForIt) {
  load_direct();
  count_down();
  EXPECT_NE(ask(1, 2, kBoth).find("iterative_sequence"), std::string::npos);
  EXPECT_EQ(ask(1, 1, kBoth), "1");
}

}  // namespace
}  // namespace tokamak::server::test
