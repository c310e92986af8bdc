// Which requests of which sequences become one execution, in which rows, and when a sequence ends.

#include "server/sequence_batcher.h"

#include "tests/server/sequence_fixture.h"

namespace tokamak::server::test {
namespace {

using namespace std::chrono_literals;
using Values = std::vector<std::vector<int64_t>>;

TEST_F(SequenceBatcherTest, ARequestMustBelongToASequenceThatStarted) {
  load_direct();
  EXPECT_EQ(ask(0, 1, kStart), "inference request to model 'm' must specify a non-zero or non-empty correlation ID");
  EXPECT_EQ(ask(7, 1), start_error(7));
  EXPECT_EQ(ask(7, 1, kEnd), start_error(7));
  auto two = row(1, 1, 2);
  two->sequence.number = 1;
  two->sequence_start = true;
  const InferResponse response = Answer(*model, std::move(two)).wait();
  EXPECT_EQ(response.error, "inference request to model 'm' must specify batch-size 1 due to requirements of sequence batcher");
  EXPECT_EQ(response.error_code, ErrorCode::InvalidArgument);
  EXPECT_TRUE(batches().empty());
  EXPECT_EQ(ask(7, 1, kStart), "2");
  EXPECT_EQ(ask(7, 2), "4");
  EXPECT_EQ(ask(7, 3, kEnd), "6");
  EXPECT_EQ(ask(7, 4), start_error(7));
  EXPECT_EQ(statistics->totals().failures[static_cast<int>(FailureReason::Other)], 5u);
}

TEST_F(SequenceBatcherTest, ControlsSayWhereASequenceIs) {
  load_direct();
  ASSERT_EQ(model->inputs().size(), 1u);  // clients do not see them
  ask(5, 1, kStart);
  ask(5, 2);
  ask(5, 3, kEnd);
  ask(6, 4, kBoth);
  const auto seen = batches();
  const auto controls = [&](int i) {
    const Row& r = seen.at(i).at(0);
    return std::vector<double>{r.numbers.at("START"), r.numbers.at("END"), r.numbers.at("READY"), r.numbers.at("CORRID")};
  };
  EXPECT_EQ(controls(0), (std::vector<double>{1, -1, 1, 5}));
  EXPECT_EQ(controls(1), (std::vector<double>{0, -1, 1, 5}));
  EXPECT_EQ(controls(2), (std::vector<double>{0, 2, 1, 5}));
  EXPECT_EQ(controls(3), (std::vector<double>{1, 2, 1, 6}));
  EXPECT_EQ(seen[0][0].dims.at("START"), (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(seen[1][0].flags, 0u);
  EXPECT_EQ(seen[3][0].flags, uint32_t{TKB_SEQUENCE_START | TKB_SEQUENCE_END});
  auto own = request({.number = 9}, 1, kStart);
  own->inputs.push_back({.name = "START", .tensor = Tensor::zeros(DType::I32, {1, 1})});
  EXPECT_NE(text_of(Answer(*model, std::move(own))).find("expected 1 inputs but got 2 inputs"), std::string::npos);
}

TEST_F(SequenceBatcherTest, AModelThatDoesNotBatchHasOneSequenceAnInstance) {
  load_direct("", "instance_group { count: 2 kind: KIND_CPU }");
  const auto one = [&](uint64_t id, int flags) {
    auto r = request_of(Tensor::of<int32_t>({1}, {static_cast<int32_t>(id)}));
    r->sequence.number = id;
    r->sequence_start = flags & kStart;
    r->sequence_end = flags & kEnd;
    return Answer(*model, std::move(r));
  };
  EXPECT_EQ(text_of(one(1, kStart)), "2");
  EXPECT_EQ(text_of(one(2, kStart)), "4");
  const Answer waiting = one(3, kBoth);
  await_pending(1);
  EXPECT_FALSE(waiting.is_answered());
  EXPECT_EQ(text_of(one(1, kEnd)), "2");
  EXPECT_EQ(text_of(waiting), "6");
  EXPECT_EQ(batches().at(0).at(0).dims.at("CORRID"), (std::vector<int64_t>{1}));
}

TEST_F(SequenceBatcherTest, CorrelationIdsAreStringsOrFit) {
  load(
      "max_batch_size: 4 sequence_batching { control_input { name: \"ID\" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } "
      "} }");
  EXPECT_EQ(text_of(Answer(*model, request({.text = "a b"}, 1, kNone))),
            "inference request for sequence a b to model 'm' must specify the START flag on the first request of the sequence");
  EXPECT_EQ(text_of(Answer(*model, request({.text = "a b"}, 1, kStart))), "2");
  EXPECT_EQ(text_of(Answer(*model, request({.text = "a b"}, 2, kEnd))), "4");
  EXPECT_EQ(ask(12, 3, kStart), "6");
  EXPECT_EQ(batches().at(1).at(0).texts.at("ID"), "a b");
  EXPECT_EQ(batches().at(2).at(0).texts.at("ID"), "12");
  model.reset();
  load(
      "max_batch_size: 4 sequence_batching { control_input { name: \"ID\" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT32 } "
      "} }");
  EXPECT_EQ(ask(0x7fffffff, 1, kBoth), "2");
  EXPECT_EQ(batches().back().at(0).numbers.at("ID"), 0x7fffffff);
  EXPECT_EQ(ask(0x80000000u, 1, kBoth), "the correlation ID '2147483648' cannot be given to model 'm': its control 'ID' is INT32");
  EXPECT_EQ(text_of(Answer(*model, request({.text = "x"}, 1, kBoth))),
            "the correlation ID 'x' cannot be given to model 'm': its control 'ID' is INT32");
}

TEST_F(SequenceBatcherTest, DirectRowsAreSlotsAndEmptyOnesArePadded) {
  load_direct();
  start(4);  // in slots 0 to 3
  const Answer held = hold(4, 41);
  const Answer third = send(3, 31), first = send(1, 11);
  await_pending(2);
  fake.open();
  EXPECT_EQ(text_of(first), "22");
  EXPECT_EQ(text_of(third), "62");
  EXPECT_EQ(text_of(held), "82");
  const auto seen = batches();
  ASSERT_EQ(seen.size(), 6u);
  EXPECT_EQ(values()[3], (std::vector<int64_t>{0, 0, 0, 40}));
  EXPECT_EQ(values()[4], (std::vector<int64_t>{0, 0, 0, 41}));
  EXPECT_EQ(values()[5], (std::vector<int64_t>{11, 0, 31}));
  const Row& padding = seen[5][1];
  EXPECT_EQ(padding.id, 0u);
  EXPECT_EQ(padding.flags, 0u);
  EXPECT_EQ(padding.numbers, (std::map<std::string, double>{{"START", 0}, {"END", -1}, {"READY", 0}, {"CORRID", 0}}));
  EXPECT_EQ(padding.dims, seen[5][0].dims);
  // Requests are counted, and executions with all their rows.
  const auto totals = statistics->totals();
  EXPECT_EQ(totals.inference_count, 7u);
  EXPECT_EQ(totals.success.count, 7u);
  EXPECT_EQ(totals.execution_count, 6u);
  EXPECT_EQ(statistics->pending(), 0);
}

TEST_F(SequenceBatcherTest, InstancesShareTheSequencesAndKeepThem) {
  std::mutex mutex;
  std::map<uint64_t, std::set<int>> instances;
  load_direct("", "max_batch_size: 2 instance_group { count: 2 kind: KIND_CPU }");
  answer_with([&](const tkb_request& r) {
    {
      const std::lock_guard lock(mutex);
      if (r.correlation_id != 0) instances[r.correlation_id].insert(FakeBackend::instance);
    }
    FakeBackend::double_it(r);
  });
  start(4);
  for (int round = 0; round < 5; ++round)
    for (int i = 1; i <= 4; ++i) EXPECT_EQ(ask(i, i), std::to_string(2 * i));
  std::map<int, int> load;
  for (const auto& [id, own] : instances) {
    EXPECT_EQ(own.size(), 1u) << id;
    ++load[*own.begin()];
  }
  EXPECT_EQ(load, (std::map<int, int>{{0, 2}, {1, 2}}));
}

TEST_F(SequenceBatcherTest, TheBacklogIsServedInItsOrder) {
  load_direct("", "max_batch_size: 1");
  start(1);
  std::vector<Answer> answers;
  answers.push_back(send(5, 50, kStart));
  answers.push_back(send(3, 30, kBoth));
  answers.push_back(send(4, 40, kStart));
  answers.push_back(send(5, 51, kEnd));  // joins its sequence in the backlog
  answers.push_back(send(4, 41, kEnd));
  await_pending(5);
  EXPECT_EQ(ask(1, 11, kEnd), "22");
  for (const Answer& a : answers) EXPECT_FALSE(a.wait().error_code);
  EXPECT_EQ(values(), (Values{{10}, {11}, {50}, {51}, {30}, {40}, {41}}));
}

TEST_F(SequenceBatcherTest, AStartOnARunningSequenceBeginsAnewInItsSlot) {
  load_direct("", "max_batch_size: 2");
  start(2);
  EXPECT_EQ(ask(2, 21, kStart), "42");
  EXPECT_EQ(ask(2, 22), "44");
  const auto seen = batches();
  EXPECT_EQ(values(), (Values{{10}, {0, 20}, {0, 21}, {0, 22}}));
  EXPECT_EQ(seen[2][1].numbers.at("START"), 1);
  EXPECT_EQ(seen[3][1].numbers.at("START"), 0);
  // In the backlog, too.
  const Answer first = send(3, 30, kStart), again = send(3, 31, kBoth);
  await_pending(2);
  EXPECT_EQ(ask(1, 11, kEnd), "22");
  EXPECT_EQ(text_of(first), "60");
  EXPECT_EQ(text_of(again), "62");
}

TEST_F(SequenceBatcherTest, AnIdMayBeUsedAgainAfterItsEnd) {
  load_direct("", "max_batch_size: 1 instance_group { count: 2 kind: KIND_CPU }");
  EXPECT_EQ(ask(1, 1, kStart), "2");
  fake.open(false);
  std::vector<Answer> answers;
  answers.push_back(send(1, 2, kEnd));
  fake.await_waiting(1);
  answers.push_back(send(1, 3, kStart));  // another slot is free, but the END is not executed
  answers.push_back(send(1, 4, kEnd));
  answers.push_back(send(1, 5, kBoth));
  await_pending(3);
  fake.open();
  for (const Answer& a : answers) EXPECT_FALSE(a.wait().error_code);
  EXPECT_EQ(values(), (Values{{1}, {2}, {3}, {4}, {5}}));
}

TEST_F(SequenceBatcherTest, SequencesOfOneIdStayInLineWhenSomeAreCancelled) {
  load_direct("", "max_batch_size: 2");
  const Answer held = hold(1, 1, kBoth);
  std::vector<Answer> answers;
  for (int i = 2; i <= 6; ++i) answers.push_back(send(1, i, kBoth));
  answers[1].cancellation->cancel();  // 3, in the middle
  answers[4].cancellation->cancel();  // 6, the last
  answers.push_back(send(1, 7, kBoth));
  const Answer other = send(2, 8, kBoth);
  await_pending(5);
  fake.open();
  for (size_t i : {0, 2, 3, 5}) EXPECT_FALSE(answers[i].wait().error_code);
  for (size_t i : {1, 4}) EXPECT_EQ(answers[i].wait().error_code, ErrorCode::Cancelled);
  EXPECT_EQ(text_of(other), "16");
  std::vector<int64_t> order;
  for (const Rows& rows : batches())
    for (const Row& r : rows)
      if (r.id == 1) order.push_back(r.value);
  EXPECT_EQ(order, (std::vector<int64_t>{1, 2, 4, 5, 7}));
}

TEST_F(SequenceBatcherTest, AnIdleSequenceLosesItsSlot) {
  load_direct("max_sequence_idle_microseconds: 100000", "max_batch_size: 1");
  start(1);
  // The backlog gets the slot although nothing else happens.
  const Answer waiting = send(2, 20, kBoth);
  await_pending(1);
  EXPECT_EQ(text_of(waiting), "40");
  EXPECT_EQ(ask(1, 11), start_error(1));
  EXPECT_EQ(ask(1, 12, kStart), "24");
  // A request that is executed longer than that is not idle.
  Answer held = hold(1, 13);
  std::this_thread::sleep_for(200ms);
  fake.open();
  EXPECT_EQ(text_of(held), "26");
  EXPECT_EQ(ask(1, 14), "28");
  std::this_thread::sleep_for(200ms);
  EXPECT_EQ(ask(1, 15), start_error(1));
}

TEST_F(SequenceBatcherTest, ASequenceThatIsUsedStays) {
  load_direct("max_sequence_idle_microseconds: 200000", "max_batch_size: 1");
  start(1);
  for (int i = 0; i < 8; ++i) {
    std::this_thread::sleep_for(50ms);
    EXPECT_EQ(ask(1, i), std::to_string(2 * i));
  }
}

TEST_F(SequenceBatcherTest, DirectWaitsForSlotsWithinItsDelay) {
  load("max_batch_size: 4 sequence_batching { direct { max_queue_delay_microseconds: 300000 minimum_slot_utilization: 0.75 } }");
  const auto began = std::chrono::steady_clock::now();
  std::vector<Answer> answers;
  for (int i = 1; i <= 3; ++i) answers.push_back(send(i, i, kStart));  // three of four are enough
  for (const Answer& a : answers) a.wait();
  EXPECT_LT(std::chrono::steady_clock::now() - began, 250ms);
  EXPECT_EQ(values(), (Values{{1, 2, 3}}));
  const auto later = std::chrono::steady_clock::now();
  answers.clear();
  for (int i = 1; i <= 2; ++i) answers.push_back(send(i, 10 * i));
  for (const Answer& a : answers) a.wait();
  EXPECT_GE(std::chrono::steady_clock::now() - later, 300ms);
  EXPECT_EQ(values().back(), (std::vector<int64_t>{10, 20}));
}

TEST_F(SequenceBatcherTest, OtherShapesWaitAndDoNotStarve) {
  load_direct();
  start(3);
  const Answer held = hold(1);
  std::vector<Answer> answers;
  answers.push_back(send(2, 21, kNone, 5));
  answers.push_back(send(1, 11));
  answers.push_back(send(3, 31, kNone, 5));
  answers.push_back(send(1, 12));
  await_pending(4);
  fake.open();
  for (const Answer& a : answers) EXPECT_FALSE(a.wait().error_code);
  const Values seen = values();
  EXPECT_EQ(Values(seen.begin() + 4, seen.end()), (Values{{0, 21, 31}, {11}, {12}}));
  EXPECT_EQ(batches()[4][0].dims.at("IN"), (std::vector<int64_t>{1, 5}));
}

TEST_F(SequenceBatcherTest, OldestTakesOneRequestOfEachCandidate) {
  load_oldest("max_candidate_sequences: 3");
  start(1);
  const Answer held = hold(1, 11);
  std::vector<Answer> answers;
  answers.push_back(send(1, 12));
  answers.push_back(send(1, 13));
  answers.push_back(send(2, 20, kStart));
  answers.push_back(send(2, 21, kEnd));
  answers.push_back(send(3, 30, kStart));
  answers.push_back(send(4, 40, kBoth));  // no candidate yet
  await_pending(6);
  fake.open();
  for (const Answer& a : answers) EXPECT_FALSE(a.wait().error_code);
  EXPECT_EQ(text_of(held), "22");
  // Whoever waited longest as its sequence's next one is first; there is no padding.
  EXPECT_EQ(values(), (Values{{10}, {11}, {20, 30, 12}, {21, 13}, {40}}));
  EXPECT_EQ(statistics->totals().execution_count, 5u);
}

TEST_F(SequenceBatcherTest, OldestPrefersSizesAndBoundsTheDelay) {
  load_oldest("max_candidate_sequences: 8 preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 200000", "max_batch_size: 8");
  fake.open(false);
  std::vector<Answer> answers;
  for (int i = 1; i <= 2; ++i) answers.push_back(send(i, i, kStart));
  fake.await_waiting(1);
  for (int i = 3; i <= 7; ++i) answers.push_back(send(i, i, kStart));
  await_pending(5);
  const auto began = std::chrono::steady_clock::now();
  fake.open();
  for (const Answer& a : answers) EXPECT_FALSE(a.wait().error_code);
  EXPECT_GE(std::chrono::steady_clock::now() - began, 100ms);
  EXPECT_EQ(values(), (Values{{1, 2}, {3, 4, 5, 6}, {7}}));
}

TEST_F(SequenceBatcherTest, OldestKeepsShapesApart) {
  load_oldest("max_candidate_sequences: 8");
  start(1);
  const Answer held = hold(1);
  std::vector<Answer> answers;
  for (int i = 2; i <= 5; ++i) answers.push_back(send(i, i, kStart, i < 4 ? 1 : 2));
  await_pending(4);
  fake.open();
  for (const Answer& a : answers) EXPECT_FALSE(a.wait().error_code);
  const Values seen = values();
  EXPECT_EQ(Values(seen.begin() + 2, seen.end()), (Values{{2, 3}, {4, 5}}));
}

TEST_F(SequenceBatcherTest, ResponsesKeepTheOrderOfExecution) {
  load_oldest("max_candidate_sequences: 4 preserve_ordering: true", "max_batch_size: 1 model_transaction_policy { decoupled: true }");
  std::mutex mutex;
  std::condition_variable changed;
  const tkb_request* late = nullptr;
  answer_with([&](const tkb_request& r) {
    const std::lock_guard lock(mutex);
    if (r.correlation_id == 1) late = &r;
    else FakeBackend::double_it(r);
    changed.notify_all();
  });
  const Answer first = send(1, 1, kStart), second = send(2, 2, kStart);
  {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, 10s, [&] { return late && batches().size() == 2; }));
  }
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(second.is_answered());
  FakeBackend::double_it(*late);
  EXPECT_EQ(text_of(first), "2");
  EXPECT_EQ(text_of(second), "4");
}

TEST_F(SequenceBatcherTest, ALateAnswerHoldsItsSequenceBack) {
  for (const bool is_oldest : {false, true}) {
    const std::string decoupled = "max_batch_size: 2 model_transaction_policy { decoupled: true }";
    if (is_oldest) load_oldest("max_candidate_sequences: 2", decoupled);
    else load_direct("", decoupled);
    std::promise<const tkb_request*> promise;
    answer_with([&](const tkb_request& r) {
      if (Row::of(r).value == 1) promise.set_value(&r);
      else FakeBackend::double_it(r);
    });
    const Answer first = send(1, 1, kStart), second = send(1, 2, kEnd);
    const tkb_request* late = promise.get_future().get();
    std::this_thread::sleep_for(30ms);
    EXPECT_FALSE(second.is_answered());
    FakeBackend::double_it(*late);
    EXPECT_EQ(text_of(first), "2");
    EXPECT_EQ(text_of(second), "4");
    model.reset();
  }
}

TEST_F(SequenceBatcherTest, ATimeLimitDropsASequenceOfTheBacklog) {
  load_direct("max_sequence_idle_microseconds: 60000000", "max_batch_size: 1");
  start(1);
  auto limited = request({.number = 2}, 21, kNone);
  limited->timeout_us = 50'000;
  const Answer first = send(2, 20, kStart), second = Answer(*model, std::move(limited)), third = send(2, 22), other = send(3, 30, kBoth);
  for (const Answer* a : {&first, &second, &third}) {
    const InferResponse response = a->wait();
    EXPECT_EQ(response.error, "timeout of the corresponding sequence has been expired");
    EXPECT_EQ(response.error_code, ErrorCode::Unavailable);
  }
  EXPECT_EQ(ask(2, 23, kEnd), start_error(2));
  EXPECT_FALSE(other.is_answered());
  EXPECT_EQ(statistics->pending(), 1);
  EXPECT_EQ(statistics->totals().failures[static_cast<int>(FailureReason::Rejected)], 3u);
  EXPECT_EQ(ask(1, 11, kEnd), "22");
  EXPECT_EQ(text_of(other), "60");
  // It does not count in a slot.
  auto slow = request({.number = 4}, 40, kBoth);
  slow->timeout_us = 1;
  EXPECT_EQ(text_of(Answer(*model, std::move(slow))), "80");
}

TEST_F(SequenceBatcherTest, CancellationEndsASequence) {
  load_direct("max_sequence_idle_microseconds: 60000000", "max_batch_size: 1");
  start(1);
  const Answer held = hold(1, 11);
  const Answer before = send(1, 12), cancelled = send(1, 13), after = send(1, 14);
  const Answer backlog_first = send(2, 20, kStart), backlog_second = send(2, 21), other = send(3, 30, kBoth);
  backlog_second.cancellation->cancel();  // nothing of it has begun: all goes
  for (const Answer* a : {&backlog_first, &backlog_second}) EXPECT_EQ(a->wait().error_code, ErrorCode::Cancelled);
  cancelled.cancellation->cancel();  // what was sent before is executed
  for (const Answer* a : {&cancelled, &after}) EXPECT_EQ(a->wait().error_code, ErrorCode::Cancelled);
  EXPECT_EQ(ask(1, 15), start_error(1));
  EXPECT_EQ(ask(2, 22), start_error(2));
  EXPECT_EQ(statistics->pending(), 2);
  fake.open();
  EXPECT_EQ(text_of(held), "22");
  EXPECT_EQ(text_of(before), "24");
  EXPECT_EQ(text_of(other), "60");
  EXPECT_EQ(values(), (Values{{10}, {11}, {12}, {30}}));
  EXPECT_EQ(statistics->totals().failures[static_cast<int>(FailureReason::Canceled)], 4u);
  // Before it was sent.
  auto gone = request({.number = 5}, 50, kStart);
  gone->cancellation->cancel();
  EXPECT_EQ(Answer(*model, std::move(gone)).wait().error_code, ErrorCode::Cancelled);
}

TEST_F(SequenceBatcherTest, AFailureDoesNotEndTheSequence) {
  load_direct();
  answer_with([](const tkb_request& r) {
    if (Row::of(r).value == 13) throw std::runtime_error("unlucky");
    FakeBackend::double_it(r);
  });
  start(1);
  EXPECT_EQ(ask(1, 13), "unlucky");
  EXPECT_EQ(ask(1, 14, kEnd), "28");
}

TEST_F(SequenceBatcherTest, UnloadExecutesWhatIsQueued) {
  for (const bool is_oldest : {false, true}) {
    if (is_oldest) load_oldest("max_candidate_sequences: 1", "max_batch_size: 1");
    else load_direct("", "max_batch_size: 1");
    start(1);
    const Answer held = hold(1, 11);  // and never ends
    std::vector<Answer> answers;
    answers.push_back(send(1, 12));
    for (int i = 2; i <= 4; ++i) answers.push_back(send(i, 10 * i, i == 3 ? kBoth : kStart));
    await_pending(4);
    std::thread unload([this] { model.reset(); });
    std::this_thread::sleep_for(20ms);
    fake.open();
    unload.join();
    EXPECT_EQ(text_of(held), "22");
    const int64_t expected[] = {24, 40, 60, 80};
    for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(text_of(answers[i]), std::to_string(expected[i]));
  }
}

TEST_F(SequenceBatcherTest, AfterCloseNothingIsTaken) {
  std::vector<std::string> warnings;
  const auto config = parse_config("name: \"m\" max_batch_size: 1 sequence_batching { } " + std::string(kIo), "the test", warnings);
  RequestScope scope{RequestRules(config)};
  // The only instance is passive.
  const auto batcher = std::make_shared<SequenceBatcher>(config, "", std::vector<bool>{false}, nullptr);
  std::vector<std::string> errors;
  const auto enqueue = [&](uint64_t id) {
    auto r = request({.number = id}, 1, kStart);
    r->on_response = [&](const InferResponse& response) { errors.push_back(response.error); };
    batcher->enqueue(std::make_unique<QueuedRequest>(r, scope));
  };
  enqueue(1);
  EXPECT_TRUE(errors.empty());
  batcher->close();
  enqueue(2);
  ASSERT_EQ(errors.size(), 2u);
  EXPECT_EQ(errors[0], "the model is being unloaded");
  EXPECT_EQ(errors[1], "[request id: <id_unknown>] the model is being unloaded");
}

TEST_F(SequenceBatcherTest, WarmUpIsASequenceOfItsOwn) {
  load_direct(
      "",
      "max_batch_size: 4 model_warmup { name: \"w\" batch_size: 1 inputs { key: \"IN\" value { data_type: TYPE_INT32 dims: 1 zero_data: "
      "true } } inputs { key: \"START\" value { data_type: TYPE_INT32 dims: 1 zero_data: true } } }");
  ASSERT_EQ(batches().size(), 1u);
  EXPECT_EQ(batches()[0].at(0).numbers, (std::map<std::string, double>{{"START", 1}, {"END", 2}, {"READY", 1}, {"CORRID", 0}}));
  EXPECT_EQ(statistics->totals().execution_count, 0u);
}

}  // namespace
}  // namespace tokamak::server::test
