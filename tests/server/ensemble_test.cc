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
  const std::string metrics = server->metrics_text();
  EXPECT_THAT(metrics, HasSubstr("nv_cache_num_hits_per_model{model=\"e\",version=\"1\"} 2\n"));
  EXPECT_THAT(metrics, HasSubstr("nv_cache_num_entries 3\n"));
}

}  // namespace
}  // namespace tokamak::server::test
