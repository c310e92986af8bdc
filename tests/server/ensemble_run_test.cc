#include "server/ensemble_run.h"

#include <gmock/gmock.h>

#include "tests/server/scripted_models.h"

namespace tokamak::server::test {

namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

using EnsembleRuns = Ensembles;

TEST_F(EnsembleRuns, AFailingStepAnswersOnceAndCancelsTheOthers) {
  put_diamond();
  std::unique_ptr<InferRequest> held;
  std::promise<void> cancelled;
  scripts["ten"] = [&](std::unique_ptr<InferRequest> request) {
    held = std::move(request);
    held->cancellation->on_cancel([&] { cancelled.set_value(); });
  };
  scripts["twenty"] = [this](std::unique_ptr<InferRequest> request) {
    workers->post([request = std::shared_ptr<InferRequest>(std::move(request))] {
      respond_error(*request, ErrorCode::Unavailable, "Exceeds maximum queue size");
    });
  };
  open();
  const Answer answer = send("diamond", ints({{"x", {1}}}));
  cancelled.get_future().get();
  const InferResponse response = answer.wait();
  EXPECT_EQ(response.error_code, ErrorCode::Unavailable);
  EXPECT_EQ(response.error, "in ensemble 'diamond', Exceeds maximum queue size");
  respond_error(*held, ErrorCode::Cancelled, "Request cancelled");
  held.reset();
  EXPECT_EQ(answer.all().size(), 1u);
  EXPECT_EQ(totals("diamond").fail.count, 1u);
  EXPECT_EQ(totals("diamond").failures[static_cast<int>(FailureReason::Other)], 1u);
  EXPECT_EQ(totals("diamond").success.count, 0u);
}

TEST_F(EnsembleRuns, MembersThatRefuseAtOnceAnswerOnce) {
  put_diamond();
  for (const char* name : {"ten", "twenty"})
    scripts[name] = [name](std::unique_ptr<InferRequest> r) { respond_error(*r, ErrorCode::Unavailable, name); };
  open();
  const auto responses = send("diamond", ints({{"x", {1}}})).all();
  ASSERT_EQ(responses.size(), 1u);
  EXPECT_THAT(responses[0].error, StartsWith("in ensemble 'diamond', t"));
}

TEST_F(EnsembleRuns, CancellingEndsItAndItsSteps) {
  put_diamond();
  std::vector<std::unique_ptr<InferRequest>> held;
  scripts["split"] = [&](std::unique_ptr<InferRequest> request) { held.push_back(std::move(request)); };
  open();
  const Answer answer = send("diamond", ints({{"x", {1}}}));
  ASSERT_EQ(held.size(), 1u);
  EXPECT_FALSE(answer.is_answered());
  answer.cancellation->cancel();
  const InferResponse response = answer.wait();
  EXPECT_EQ(response.error_code, ErrorCode::Cancelled);
  EXPECT_EQ(response.error, "in ensemble 'diamond', [request id: <id_unknown>] Request cancelled");
  EXPECT_TRUE(held[0]->cancellation->is_cancelled());
  held[0]->on_response(reply(*held[0], {plus(*held[0], "LEFT", 0), plus(*held[0], "RIGHT", 0)}));
  held.clear();
  EXPECT_EQ(answer.all().size(), 1u);
  EXPECT_EQ(totals("diamond").failures[static_cast<int>(FailureReason::Canceled)], 1u);

  auto late = ints({{"x", {1}}});
  late->cancellation->cancel();
  EXPECT_EQ(send("diamond", std::move(late)).wait().error_code, ErrorCode::Cancelled);
  EXPECT_TRUE(held.empty());
}

TEST_F(EnsembleRuns, BatchesComeAndGo) {
  std::map<std::string, Shape> shapes;
  const auto watch = [&](const std::string& name, const std::string& config) {
    put_script(name, config, [&shapes, name](std::unique_ptr<InferRequest> request) {
      shapes[name] = request->inputs[0].tensor.shape();
      request->on_response(reply(*request, {plus(*request, "OUT", 1)}));
    });
  };
  const std::string batches = "max_batch_size: 4 ";
  const std::string column = io("input", "IN", "2") + io("output", "OUT", "2");
  const std::string whole = io("input", "IN", "-1, 2") + io("output", "OUT", "-1, 2");
  watch("rows", batches + column);
  watch("whole", whole);
  watch("row", column);
  const auto chain = [&](const std::string& name, const std::string& head, const std::string& dims) {
    return ensemble(head + io("input", "x", dims) + io("output", "y", dims),
                    step("rows", map("input", "IN", "x") + map("output", "OUT", "t")) +
                        step(name, map("input", "IN", "t") + map("output", "OUT", "y")));
  };
  put_model("batching", chain("whole", batches, "2"));
  put_model("single", chain("row", batches, "2"));
  put_model("plain", chain("row", "", "2"));
  put_model("matrix", chain("whole", "", "-1, 2"));
  put_model("reshaped",
            ensemble(batches + io("input", "x", "1, 2", "reshape { shape: [ 2 ] }") + io("output", "y", "2, 1", "reshape { shape: [ 2 ] }"),
                     step("rows", map("input", "IN", "x") + map("output", "OUT", "y"))));
  open();
  ASSERT_TRUE(failures.empty()) << failures[0].second;
  const auto run = [&](const std::string& name, Shape shape) {
    auto request = std::make_unique<InferRequest>();
    request->inputs.push_back({.name = "x", .tensor = Tensor::zeros(DType::I32, std::move(shape))});
    shapes.clear();
    const InferResponse response = send(name, std::move(request)).wait();
    return response.error_code ? Shape{} : response.outputs.at(0).tensor.shape();
  };
  // A member that does not batch sees the rows as a dimension of its own...
  EXPECT_EQ(run("batching", {3, 2}), (Shape{3, 2}));
  EXPECT_EQ(shapes["whole"], (Shape{3, 2}));
  // ...or a single row without it; more of them do not go in.
  EXPECT_EQ(run("single", {1, 2}), (Shape{1, 2}));
  EXPECT_EQ(shapes["row"], (Shape{2}));
  EXPECT_EQ(run("single", {2, 2}), Shape{});
  // An ensemble that does not batch gives a batching member a batch of one, or the one that the shape already has.
  EXPECT_EQ(run("plain", {2}), (Shape{2}));
  EXPECT_EQ(shapes["rows"], (Shape{1, 2}));
  EXPECT_EQ(run("matrix", {3, 2}), (Shape{3, 2}));
  EXPECT_EQ(shapes["rows"], (Shape{3, 2}));
  EXPECT_EQ(run("reshaped", {3, 1, 2}), (Shape{3, 2, 1}));
  EXPECT_EQ(shapes["rows"], (Shape{3, 2}));
}

TEST_F(EnsembleRuns, OptionalTensorsMayBeMissing) {
  std::vector<size_t> num_inputs;
  put_script("member", io("input", "A") + io("input", "B", "-1", "optional: true") + io("output", "OUT") + io("output", "MORE"),
             [&](std::unique_ptr<InferRequest> request) {
               num_inputs.push_back(request->inputs.size());
               std::vector<NamedTensor> outputs = {plus(*request, "OUT", 1)};
               if (request->inputs.size() == 2) outputs.push_back(plus(*request, "MORE", 2));
               request->on_response(reply(*request, std::move(outputs)));
             });
  put_model("e", ensemble(io("input", "a") + io("input", "b", "-1", "optional: true") + io("output", "out") + io("output", "more"),
                          step("member",
                               map("input", "A", "a") + map("input", "B", "b") + map("output", "OUT", "c") + map("output", "MORE", "d")) +
                              step("member", map("input", "A", "c") + map("input", "B", "d") + map("output", "OUT", "out") +
                                                 map("output", "MORE", "more"))));
  open();
  EXPECT_EQ(values_of(send("e", ints({{"a", {1}}, {"b", {1}}})).wait(), "more"), Values{4});
  const InferResponse response = send("e", ints({{"a", {1}}})).wait();
  EXPECT_EQ(response.outputs.size(), 1u);
  EXPECT_EQ(values_of(response, "out"), Values{3});
  EXPECT_THAT(num_inputs, ElementsAre(2, 2, 1, 1));
  EXPECT_THAT(send("e", ints({{"b", {1}}})).wait().error, HasSubstr("missing required input(s) ['a']"));
}

// Sends IN's elements one by one, and then, when there is no other, an empty final response.
void repeat(std::unique_ptr<InferRequest> request) {
  const Tensor in = request->inputs[0].tensor;
  for (int64_t i = 0; i < in.count(); ++i) {
    const Tensor one = Tensor::of<int32_t>({1}, {static_cast<int32_t>(in.int_at(i))});
    request->on_response(reply(*request, {{.name = "OUT", .tensor = one}}, false));
  }
  InferResponse last = reply(*request, {});
  last.is_empty = true;
  request->on_response(std::move(last));
}

constexpr const char* kDecoupled = " model_transaction_policy { decoupled: true }";

TEST_F(EnsembleRuns, ResponsesOfADecoupledMemberStayInOrder) {
  put_script("repeat", kInOut + kDecoupled, repeat);
  // The first answer comes last.
  std::mutex mutex;
  std::vector<std::unique_ptr<InferRequest>> held;
  put_script("late", kInOut, [&](std::unique_ptr<InferRequest> request) {
    std::vector<std::unique_ptr<InferRequest>> all;
    {
      const std::lock_guard lock(mutex);
      held.push_back(std::move(request));
      if (held.size() == 5) all.swap(held);
    }
    while (!all.empty()) {
      all.back()->on_response(reply(*all.back(), {plus(*all.back(), "OUT", 100)}));
      all.pop_back();
    }
  });
  put_model("e", ensemble(io("input", "x") + io("output", "y") + io("output", "t"),
                          step("repeat", map("input", "IN", "x") + map("output", "OUT", "t")) +
                              step("late", map("input", "IN", "t") + map("output", "OUT", "y"))));
  open();
  ASSERT_TRUE(failures.empty()) << failures[0].second;
  EXPECT_TRUE(server->find_model("e")->is_decoupled());
  EXPECT_TRUE(server->find_model("e")->config().model_transaction_policy().decoupled());
  const auto responses = send("e", ints({{"x", {1, 2, 3, 4, 5}}})).all();
  ASSERT_EQ(responses.size(), 5u);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(values_of(responses[i], "t"), Values{i + 1});
    EXPECT_EQ(values_of(responses[i], "y"), Values{i + 101});
    EXPECT_EQ(responses[i].is_final, i == 4);
  }
  const auto none = send("e", ints({{"x", {}}})).all();
  ASSERT_EQ(none.size(), 1u);
  EXPECT_TRUE(none[0].is_final && none[0].is_empty && !none[0].error_code);
  EXPECT_EQ(totals("e").success.count, 2u);
}

TEST_F(EnsembleRuns, DecoupledMembersMayFollowEachOther) {
  put_script("repeat", kInOut + kDecoupled, [this](std::unique_ptr<InferRequest> request) {
    workers->post([request = std::make_shared<std::unique_ptr<InferRequest>>(std::move(request))] { repeat(std::move(*request)); });
  });
  put_script("count", kInOut, answer([](const InferRequest& r) {  // [n, ..., n + 2]
               const auto n = static_cast<int32_t>(r.inputs[0].tensor.int_at(0));
               return std::vector{NamedTensor{.name = "OUT", .tensor = Tensor::of<int32_t>({3}, {n, n + 1, n + 2})}};
             }));
  put_model("e", ensemble(io("input", "x") + io("output", "y"), step("repeat", map("input", "IN", "x") + map("output", "OUT", "a")) +
                                                                    step("count", map("input", "IN", "a") + map("output", "OUT", "b")) +
                                                                    step("repeat", map("input", "IN", "b") + map("output", "OUT", "y"))));
  open();
  for (int round = 0; round < 20; ++round) {
    Values got;
    for (const InferResponse& response : send("e", ints({{"x", {0, 10, 20}}})).all())
      if (!response.is_empty) got.push_back(values_of(response, "y").at(0));
    EXPECT_THAT(got, ElementsAre(0, 1, 2, 10, 11, 12, 20, 21, 22));
  }
}

TEST_F(EnsembleRuns, AnErrorEndsAStream) {
  put_script("repeat", kInOut + kDecoupled, repeat);
  put_script("odd", kInOut, [](std::unique_ptr<InferRequest> request) {
    if (request->inputs[0].tensor.int_at(0) == 3) respond_error(*request, ErrorCode::Internal, "three");
    else request->on_response(reply(*request, {plus(*request, "OUT", 0)}));
  });
  put_model("e", ensemble(io("input", "x") + io("output", "y"), step("repeat", map("input", "IN", "x") + map("output", "OUT", "t")) +
                                                                    step("odd", map("input", "IN", "t") + map("output", "OUT", "y"))));
  open();
  const auto responses = send("e", ints({{"x", {1, 2, 3, 4}}})).all();
  ASSERT_EQ(responses.size(), 3u);
  EXPECT_EQ(values_of(responses[1], "y"), Values{2});
  EXPECT_EQ(responses[2].error, "in ensemble 'e', three");
  EXPECT_TRUE(responses[2].is_final);
}

TEST_F(EnsembleRuns, MaxInflightRequestsHoldsForAStepOverAllRequests) {
  put_script("repeat", kInOut + kDecoupled, repeat);
  std::mutex mutex;
  std::vector<std::unique_ptr<InferRequest>> held;
  std::atomic<int> most = 0;
  put_script("slow", kInOut, [&](std::unique_ptr<InferRequest> request) {
    const std::lock_guard lock(mutex);
    held.push_back(std::move(request));
    most = std::max<int>(most, static_cast<int>(held.size()));
  });
  put_model("e", ensemble(io("input", "x") + io("output", "y"), step("repeat", map("input", "IN", "x") + map("output", "OUT", "t")) +
                                                                    step("slow", map("input", "IN", "t") + map("output", "OUT", "y")) +
                                                                    "max_inflight_requests: 2"));
  open();
  ASSERT_TRUE(failures.empty()) << failures[0].second;
  const auto finish_one = [&] {
    std::unique_ptr<InferRequest> request;
    {
      const std::lock_guard lock(mutex);
      if (held.empty()) return false;
      request = std::move(held.back());
      held.pop_back();
    }
    request->on_response(reply(*request, {plus(*request, "OUT", 0)}));
    return true;
  };
  const Answer first = send("e", ints({{"x", {1, 2, 3, 4, 5, 6}}})), second = send("e", ints({{"x", {11, 12, 13, 14}}})),
               third = send("e", ints({{"x", {21, 22, 23}}}));
  EXPECT_EQ(held.size(), 2u);
  second.cancellation->cancel();  // while all of it waits
  EXPECT_EQ(second.wait().error_code, ErrorCode::Cancelled);
  while (finish_one()) EXPECT_LE(held.size(), 2u);
  EXPECT_EQ(first.all().size(), 6u);
  EXPECT_EQ(third.all().size(), 3u);
  EXPECT_EQ(values_of(first.all()[4], "y"), Values{5});
  EXPECT_EQ(most, 2);
}

TEST_F(EnsembleRuns, AQueueOfManyRequestsIsNoDeepStack) {
  std::vector<std::unique_ptr<InferRequest>> held;
  bool holds = true;
  put_script("member", kInOut, [&](std::unique_ptr<InferRequest> request) {
    if (holds) held.push_back(std::move(request));
    else request->on_response(reply(*request, {plus(*request, "OUT", 1)}));
  });
  put_single("e", io("input", "x") + io("output", "y"), "member", "max_inflight_requests: 1");
  open();
  std::vector<Answer> answers;
  for (int32_t i = 0; i < 20'000; ++i) answers.push_back(send("e", ints({{"x", {i}}})));
  ASSERT_EQ(held.size(), 1u);
  holds = false;
  held[0]->on_response(reply(*held[0], {plus(*held[0], "OUT", 1)}));
  held.clear();
  for (int i = 0; i < 20'000; ++i) EXPECT_EQ(values_of(answers[i].wait(), "y"), Values{i + 1});
}

TEST_F(EnsembleRuns, AMissingOutputIsNoDeadlockButAnError) {
  put_script("member", kInOut + kDecoupled, [](std::unique_ptr<InferRequest> request) {
    InferResponse last = reply(*request, {});
    last.is_empty = true;
    request->on_response(std::move(last));
  });
  put_script("whole", kInOut, answer([](const InferRequest& r) { return std::vector{plus(r, "OUT", 1)}; }));
  put_single("e", io("input", "x") + io("output", "y"), "whole");
  ServerOptions options;
  options.repository.mode = ControlMode::Explicit;
  options.repository.startup_models = {"e"};
  open(std::move(options));
  // Decoupled since it was loaded again: none of its responses is what the ensemble has promised.
  put_script("whole", kInOut + kDecoupled, scripts["member"]);
  server->repository().load("whole");
  const InferResponse response = send("e", ints({{"x", {1}}})).wait();
  EXPECT_EQ(response.error_code, ErrorCode::InvalidArgument);
  EXPECT_THAT(response.error, HasSubstr("unexpected deadlock, at least one output is not set"));
  put_script("whole", kInOut + kDecoupled + " ", repeat);
  server->repository().load("whole");
  EXPECT_THAT(send("e", ints({{"x", {1, 2}}})).wait().error, HasSubstr("several responses"));
}

}  // namespace
}  // namespace tokamak::server::test
