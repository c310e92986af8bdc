#include "server/ensemble.h"

#include <gmock/gmock.h>

#include "server/response_cache.h"
#include "tests/server/scripted_models.h"

namespace tokamak::server::test {

namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;
using Values = std::vector<int64_t>;

const std::string kInOut = io("input", "IN") + io("output", "OUT");

Values values_of(const InferResponse& response, const std::string& output) {
  for (const NamedTensor& tensor : response.outputs)
    if (tensor.name == output) return tensor.tensor.to_ints();
  ADD_FAILURE() << "no output " << output << ": " << response.error;
  return {};
}

InferResponse reply(const InferRequest& request, std::vector<NamedTensor> outputs, bool is_final = true) {
  InferResponse response{.model_name = request.model_name, .model_version = request.model_version, .id = request.id};
  response.outputs = std::move(outputs);
  response.is_final = is_final;
  return response;
}

// x, split into x + 1 and x + 2; these + 10 and + 20; the two added up.
class Ensembles : public ScriptedServer {
 protected:
  void put_diamond(const std::string& more = "") {
    put_script("split", io("input", "IN") + io("output", "LEFT") + io("output", "RIGHT"), answer([](const InferRequest& r) {
                 return std::vector{plus(r, "LEFT", 1), plus(r, "RIGHT", 2)};
               }));
    put_script("ten", kInOut, answer([](const InferRequest& r) { return std::vector{plus(r, "OUT", 10)}; }));
    put_script("twenty", kInOut, answer([](const InferRequest& r) { return std::vector{plus(r, "OUT", 20)}; }));
    put_script("add", io("input", "A") + io("input", "B") + io("output", "SUM"), answer([](const InferRequest& r) {
                 const Tensor &a = r.inputs[0].tensor, &b = r.inputs[1].tensor;
                 std::vector<int32_t> sum;
                 for (int64_t i = 0; i < a.count(); ++i) sum.push_back(static_cast<int32_t>(a.int_at(i) + b.int_at(i)));
                 return std::vector{NamedTensor{.name = "SUM", .tensor = Tensor::of<int32_t>(a.shape(), sum)}};
               }));
    put_model("diamond",
              ensemble(io("input", "x") + io("output", "sum") + io("output", "right"),
                       step("add", map("input", "A", "left") + map("input", "B", "right") + map("output", "SUM", "sum")) +
                           step("ten", map("input", "IN", "l") + map("output", "OUT", "left")) +
                           step("twenty", map("input", "IN", "r") + map("output", "OUT", "right")) +
                           step("split", map("input", "IN", "x") + map("output", "LEFT", "l") + map("output", "RIGHT", "r")) + more));
  }
  // Ensemble `name` of one step.
  void put_single(const std::string& name, const std::string& ios, const std::string& member, const std::string& more = "") {
    put_model(name, ensemble(ios, step(member, map("input", "IN", "x") + map("output", "OUT", "y")) + more));
  }
  ModelStatistics::Totals totals(const std::string& model) { return server->find_model(model)->statistics().totals(); }
};

TEST_F(Ensembles, ADiamondIsItsSteps) {
  put_diamond();
  open();
  ASSERT_TRUE(failures.empty()) << failures[0].second;
  const auto model = server->find_model("diamond");
  EXPECT_EQ(model->platform(), "ensemble");
  EXPECT_FALSE(model->is_decoupled());
  auto request = ints({{"x", {1, 2}}});
  request->id = "7";
  const InferResponse response = Answer(*model, std::move(request)).wait();
  EXPECT_EQ(values_of(response, "sum"), (Values{35, 37}));
  EXPECT_EQ(values_of(response, "right"), (Values{23, 24}));
  EXPECT_EQ(response.model_name, "diamond");
  EXPECT_EQ(response.model_version, 1);
  EXPECT_EQ(response.id, "7");
  EXPECT_TRUE(response.is_final);
  EXPECT_TRUE(response.parameters.empty());
}

TEST_F(Ensembles, OnlyWhatIsAskedForIsDone) {
  put_diamond();
  for (const char* unneeded : {"ten", "add"}) scripts[unneeded] = [](std::unique_ptr<InferRequest>) { ADD_FAILURE() << "nobody asked"; };
  std::atomic<int> num_outputs = 0;
  scripts["split"] = [&, split = scripts["split"]](std::unique_ptr<InferRequest> request) {
    num_outputs = static_cast<int>(request->outputs.size());
    split(std::move(request));
  };
  open();
  auto request = ints({{"x", {1}}});
  request->outputs.push_back({.name = "right"});
  const InferResponse response = send("diamond", std::move(request)).wait();
  EXPECT_EQ(response.outputs.size(), 1u);
  EXPECT_EQ(values_of(response, "right"), Values{23});
  EXPECT_EQ(num_outputs, 1);
}

TEST_F(Ensembles, WhatComesWithARequestGoesToTheMembers) {
  std::vector<std::unique_ptr<InferRequest>> seen;
  put_script("first", kInOut, [&](std::unique_ptr<InferRequest> request) {
    InferResponse response = reply(*request, {plus(*request, "OUT", 0)});
    response.parameters["sequence_id"] = int64_t{9};
    response.parameters["sequence_end"] = true;
    seen.push_back(std::move(request));
    seen.back()->on_response(std::move(response));
  });
  put_script("second", kInOut, [&](std::unique_ptr<InferRequest> request) {
    seen.push_back(std::move(request));
    seen.back()->on_response(reply(*seen.back(), {plus(*seen.back(), "OUT", 0)}));
  });
  put_model("e", ensemble(io("input", "x") + io("output", "y"), step("first", map("input", "IN", "x") + map("output", "OUT", "t")) +
                                                                    step("second", map("input", "IN", "t") + map("output", "OUT", "y"))));
  open();
  auto request = ints({{"x", {1}}});
  request->id = "7";
  request->sequence.text = "s";
  request->sequence_start = true;
  request->priority = 3;
  request->timeout_us = 12345;
  request->traceparent = "00-1-2-01";
  request->parameters["own"] = std::string("value");
  const void* bytes = request->inputs[0].tensor.raw();
  const InferResponse response = send("e", std::move(request)).wait();
  ASSERT_EQ(seen.size(), 2u) << response.error;
  for (const auto& member : seen) {
    EXPECT_EQ(member->id, "7");
    EXPECT_EQ(member->priority, 3u);
    EXPECT_EQ(member->timeout_us, 12345u);
    EXPECT_EQ(member->traceparent, "00-1-2-01");
    EXPECT_EQ(std::get<std::string>(member->parameters.at("own")), "value");
  }
  EXPECT_EQ(seen[0]->inputs[0].tensor.raw(), bytes) << "tensors are passed on, not copied";
  EXPECT_EQ(seen[0]->sequence.text, "s");
  EXPECT_TRUE(seen[0]->sequence_start);
  EXPECT_FALSE(seen[0]->sequence_end);
  // The first member's response says which sequence the steps behind it are of.
  EXPECT_EQ(seen[1]->sequence, SequenceId{.number = 9});
  EXPECT_FALSE(seen[1]->sequence_start);
  EXPECT_TRUE(seen[1]->sequence_end);
  EXPECT_EQ(std::get<int64_t>(response.parameters.at("sequence_id")), 9);
  EXPECT_TRUE(std::get<bool>(response.parameters.at("sequence_end")));
  seen.clear();
}

TEST_F(Ensembles, AFailingStepAnswersOnceAndCancelsTheOthers) {
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

TEST_F(Ensembles, MembersThatRefuseAtOnceAnswerOnce) {
  put_diamond();
  for (const char* name : {"ten", "twenty"})
    scripts[name] = [name](std::unique_ptr<InferRequest> r) { respond_error(*r, ErrorCode::Unavailable, name); };
  open();
  const auto responses = send("diamond", ints({{"x", {1}}})).all();
  ASSERT_EQ(responses.size(), 1u);
  EXPECT_THAT(responses[0].error, StartsWith("in ensemble 'diamond', t"));
}

TEST_F(Ensembles, CancellingEndsItAndItsSteps) {
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

TEST_F(Ensembles, BatchesComeAndGo) {
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

TEST_F(Ensembles, OptionalTensorsMayBeMissing) {
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

TEST_F(Ensembles, ResponsesOfADecoupledMemberStayInOrder) {
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

TEST_F(Ensembles, DecoupledMembersMayFollowEachOther) {
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

TEST_F(Ensembles, AnErrorEndsAStream) {
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

TEST_F(Ensembles, MaxInflightRequestsHoldsForAStepOverAllRequests) {
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

TEST_F(Ensembles, AQueueOfManyRequestsIsNoDeepStack) {
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

TEST_F(Ensembles, EnsemblesOfEnsembles) {
  put_diamond();
  put_model("outer",
            ensemble(io("input", "x") + io("output", "y"), step("diamond", map("input", "x", "x") + map("output", "sum", "t")) +
                                                               step("diamond", map("input", "x", "t") + map("output", "sum", "y"))));
  open();
  ASSERT_TRUE(failures.empty()) << failures[0].second;
  EXPECT_EQ(values_of(send("outer", ints({{"x", {1}}})).wait(), "y"), Values{103});  // 2 * 35 + 33
  scripts["add"] = [](std::unique_ptr<InferRequest> request) { respond_error(*request, ErrorCode::Internal, "no sum"); };
  put("add/1/model.fake", "another one");
  server.reset();
  open();
  EXPECT_EQ(send("outer", ints({{"x", {1}}})).wait().error, "in ensemble 'outer', in ensemble 'diamond', no sum");
}

TEST_F(Ensembles, StatisticsAreSumsOfTheMembers) {
  put_model("m", "backend: \"fake\" max_batch_size: 8 " + kInOut);
  put_model("e", ensemble("max_batch_size: 8 " + io("input", "x") + io("output", "y"),
                          step("m", map("input", "IN", "x") + map("output", "OUT", "t")) +
                              step("m", map("input", "IN", "t") + map("output", "OUT", "y"))));
  put_model("outer", ensemble("max_batch_size: 8 " + io("input", "x") + io("output", "y"),
                              step("e", map("input", "x", "x") + map("output", "y", "y"))));
  open();
  ASSERT_TRUE(failures.empty()) << failures[0].second;
  fake.behaviour = [](const tkb_request* const* requests, size_t count) {
    const int64_t start = steady_now_ns();
    std::this_thread::sleep_for(5ms);
    server_functions().report_compute(requests, count, start, steady_now_ns());
    FakeBackend::double_it(*requests[0]);
  };
  auto request = std::make_unique<InferRequest>();
  request->inputs.push_back({.name = "x", .tensor = Tensor::of<int32_t>({2, 1}, {1, 2})});
  EXPECT_EQ(values_of(send("outer", std::move(request)).wait(), "y"), (Values{4, 8}));
  const auto member = totals("m");
  for (const char* name : {"e", "outer"}) {
    const auto own = totals(name);
    EXPECT_EQ(own.success.count, 1u);
    EXPECT_EQ(own.inference_count, 2u);
    EXPECT_EQ(own.execution_count, 1u);
    EXPECT_EQ(own.compute_infer.ns, member.compute_infer.ns);
    EXPECT_GE(own.success.ns, 10'000'000u);
  }
  EXPECT_EQ(member.execution_count, 2u);
}

TEST_F(Ensembles, ManyThreadsAndARealBatcher) {
  const std::string batches = "max_batch_size: 8 ";
  put_model("m", "backend: \"fake\" dynamic_batching { } instance_group { count: 2 kind: KIND_CPU } " + batches + kInOut);
  put_script("add", batches + io("input", "A") + io("input", "B") + io("output", "SUM"), answer([](const InferRequest& r) {
               const Tensor &a = r.inputs[0].tensor, &b = r.inputs[1].tensor;
               return std::vector{
                   NamedTensor{.name = "SUM", .tensor = Tensor::of<int32_t>(a.shape(), {static_cast<int32_t>(a.int_at(0) + b.int_at(0))})}};
             }));
  put_model("e", ensemble(batches + io("input", "x") + io("output", "y"),
                          step("m", map("input", "IN", "x") + map("output", "OUT", "a")) +
                              step("m", map("input", "IN", "a") + map("output", "OUT", "b")) +
                              step("add", map("input", "A", "a") + map("input", "B", "b") + map("output", "SUM", "y")) +
                              "max_inflight_requests: 5"));
  open();
  ASSERT_TRUE(failures.empty()) << failures[0].second;
  std::atomic<int> num_wrong = 0, num_cancelled = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; i += 4) {
        std::vector<Answer> answers;
        for (int k = 0; k < 4; ++k) {
          auto request = std::make_unique<InferRequest>();
          request->inputs.push_back({.name = "x", .tensor = Tensor::of<int32_t>({1, 1}, {t * 1000 + i + k})});
          answers.push_back(send("e", std::move(request)));
        }
        if (i % 20 == 0) answers[1].cancellation->cancel();
        for (int k = 0; k < 4; ++k) {
          const auto responses = answers[k].all();
          if (responses.size() == 1 && responses[0].error_code == ErrorCode::Cancelled) ++num_cancelled;
          else if (responses.size() != 1 || responses[0].error_code || values_of(responses[0], "y") != Values{6 * (t * 1000 + i + k)})
            ++num_wrong;
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, 0);
  const auto own = totals("e");
  EXPECT_EQ(own.success.count + own.fail.count, 4000u);
  EXPECT_EQ(own.fail.count, static_cast<uint64_t>(num_cancelled));
}

TEST_F(Ensembles, UnloadedWhileInFlight) {
  put_diamond();
  std::vector<std::unique_ptr<InferRequest>> held;
  scripts["split"] = [&](std::unique_ptr<InferRequest> request) { held.push_back(std::move(request)); };
  ServerOptions options;
  options.repository.mode = ControlMode::Explicit;
  options.repository.startup_models = {"diamond"};
  open(std::move(options));
  const Answer first = send("diamond", ints({{"x", {1}}})), second = send("diamond", ints({{"x", {2}}}));
  ASSERT_EQ(held.size(), 2u);
  server->repository().unload("diamond", true);
  EXPECT_TRUE(server->repository().ready_models().empty());
  second.cancellation->cancel();
  for (auto& request : held) request->on_response(reply(*request, {plus(*request, "LEFT", 1), plus(*request, "RIGHT", 2)}));
  held.clear();
  EXPECT_EQ(values_of(first.wait(), "sum"), Values{35});
  EXPECT_EQ(second.wait().error_code, ErrorCode::Cancelled);
}

TEST_F(Ensembles, AReloadedMemberServes) {
  put_script("member", kInOut, answer([](const InferRequest& r) { return std::vector{plus(r, "OUT", 1)}; }));
  put_single("e", io("input", "x") + io("output", "y"), "member");
  ServerOptions options;
  options.repository.mode = ControlMode::Explicit;
  options.repository.startup_models = {"e"};
  open(std::move(options));
  EXPECT_EQ(values_of(send("e", ints({{"x", {1}}})).wait(), "y"), Values{2});
  put_script("member", kInOut, answer([](const InferRequest& r) { return std::vector{plus(r, "OUT", 2)}; }));
  put("member/1/model.fake", "another one");
  server->repository().load("member");
  EXPECT_EQ(values_of(send("e", ints({{"x", {1}}})).wait(), "y"), Values{3});
  // One that no longer fits answers with its own words.
  put_script("member", io("input", "IN") + io("input", "MORE") + io("output", "OUT"), [](std::unique_ptr<InferRequest>) {});
  server->repository().load("member");
  EXPECT_THAT(send("e", ints({{"x", {1}}})).wait().error,
              StartsWith("in ensemble 'e', [request id: <id_unknown>] expected 2 inputs but got 1"));
}

TEST_F(Ensembles, AMissingOutputIsNoDeadlockButAnError) {
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

TEST_F(Ensembles, ClassificationWithTheMembersLabels) {
  put("member/labels.txt", "cat\ndog\n");
  put_script("member", io("input", "IN") + io("output", "OUT", "2", "label_filename: \"labels.txt\""),
             answer([](const InferRequest& r) { return std::vector{plus(r, "OUT", 1)}; }));
  put_single("e", io("input", "x") + io("output", "y"), "member");
  open();
  auto request = ints({{"x", {4, 6}}});
  request->outputs.push_back({.name = "y", .classification = 1});
  const InferResponse response = send("e", std::move(request)).wait();
  ASSERT_FALSE(response.error_code) << response.error;
  EXPECT_THAT(response.outputs[0].tensor.strings(), ElementsAre("7:1:dog"));
}

TEST_F(Ensembles, AnswersAreCachedAtTheTopAndByMembers) {
  std::atomic<int> num_runs = 0;
  put_script("member", kInOut, answer([&](const InferRequest& r) {
               ++num_runs;
               return std::vector{plus(r, "OUT", 1)};
             }));
  put_model("kept", "backend: \"fake\" response_cache { enable: true } " + kInOut);
  const std::string steps = step("member", map("input", "IN", "x") + map("output", "OUT", "t")) +
                            step("kept", map("input", "IN", "t") + map("output", "OUT", "y"));
  put_model("plain", ensemble(io("input", "x") + io("output", "y"), steps));
  put_model("e", ensemble(io("input", "x") + io("output", "y"), steps) + "response_cache { enable: true }");
  ServerOptions options;
  options.backends.response_cache = std::make_shared<ResponseCache>(1 << 20);
  open(std::move(options));
  ASSERT_TRUE(failures.empty()) << failures[0].second;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(values_of(send("plain", ints({{"x", {1}}})).wait(), "y"), Values{4});
  EXPECT_EQ(num_runs, 2);
  EXPECT_EQ(totals("kept").cache_hit.count, 1u);
  EXPECT_EQ(totals("kept").cache_miss.count, 1u);
  EXPECT_EQ(totals("plain").success.count, 2u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(values_of(send("e", ints({{"x", {2}}})).wait(), "y"), Values{6});
  EXPECT_EQ(num_runs, 3);
  EXPECT_EQ(totals("e").cache_hit.count, 2u);
  EXPECT_EQ(totals("e").cache_miss.count, 1u);
  EXPECT_EQ(totals("e").execution_count, 1u);
}

}  // namespace
}  // namespace tokamak::server::test
