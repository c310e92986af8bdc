// Traces in files of Triton's form and at a collector: what they tell, how they hang together, what happens when they cannot be written.

#include "server/trace.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "server/http/http.h"
#include "server/statistics.h"
#include "tests/server/fake_backend.h"
#include "tests/support/message_of.h"

namespace tokamak::server {

namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

// The "name" of timestamps, in the order of the file.
std::vector<std::string> names_of(const json& trace) {
  std::vector<std::string> names;
  for (const json& stamp : trace.at("timestamps")) names.push_back(stamp.at("name"));
  return names;
}

class TraceFiles : public test::FakeBackendTest {
 protected:
  void SetUp() override {
    FakeBackendTest::SetUp();
    const std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();  // tests run beside each other
    folder_ = std::filesystem::path(testing::TempDir()) / ("tokamak_traces_" + name);
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override {
    FakeBackendTest::TearDown();
    tracer_.reset();
    std::filesystem::remove_all(folder_);
  }
  std::string file(const std::string& suffix = "") const { return (folder_ / ("trace.json" + suffix)).string(); }
  Tracer& open(TraceSettings settings, TraceOptions options = {}) {
    settings["trace_file"] = {file()};
    options.settings = std::move(settings);
    tracer_ = std::make_shared<Tracer>(std::move(options));
    this->settings->tracer = tracer_;
    return *tracer_;
  }
  // A request lets go of its trace a moment after its answer; a model that is gone has let go of all.
  void finish() {
    model.reset();
    tracer_->close();
  }
  json read(const std::string& suffix = "") const { return json::parse(read_file(file(suffix))); }
  // As a protocol would.
  test::Answer traced(std::unique_ptr<InferRequest> request) {
    request->model_name = "m";
    request->received_ns = steady_now_ns();
    tracer_->begin(*request);
    return send(std::move(request));
  }

  std::filesystem::path folder_;
  std::shared_ptr<Tracer> tracer_;
};

TEST_F(TraceFiles, ARequestsTimesInTheirOrder) {
  open({{"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"1"}}});
  load("max_batch_size: 4");
  auto request = test::row(3);
  request->id = "a \"b\"";
  traced(std::move(request)).wait();
  finish();
  const json traces = read();
  ASSERT_EQ(traces.size(), 2u);
  EXPECT_EQ(traces[0], json::parse(R"({"id":1,"model_name":"m","model_version":1,"request_id":"a \"b\""})"));
  EXPECT_EQ(traces[1]["id"], 1);
  EXPECT_THAT(names_of(traces[1]), ElementsAre("REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START",
                                               "COMPUTE_END", "REQUEST_END"));
}

TEST_F(TraceFiles, MembersAreChildrenOfTheRequestTheyBelongTo) {
  open({{"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"1"}}});
  load("max_batch_size: 4");
  InferRequest ensemble;
  ensemble.model_name = "ensemble";
  ensemble.received_ns = steady_now_ns();
  tracer_->begin(ensemble);
  ASSERT_TRUE(ensemble.trace);
  for (const std::string& traceparent : {ensemble.traceparent, std::string(kParent), std::string()}) {
    auto member = test::row(1);
    member->traceparent = traceparent;
    send(std::move(member)).wait();
  }
  ensemble.trace->end(steady_now_ns(), "");
  ensemble.trace = nullptr;
  finish();
  const json traces = read();
  ASSERT_EQ(traces.size(), 4u) << "only the member of the traced request is traced: " << traces;
  EXPECT_EQ(traces[0]["id"], 2);
  EXPECT_EQ(traces[0]["parent_id"], 1);
  EXPECT_EQ(traces[0]["model_name"], "m");
  EXPECT_EQ(traces[2]["model_name"], "ensemble");
  EXPECT_FALSE(traces[2].contains("parent_id"));
}

TEST_F(TraceFiles, TensorsOfRequestAndResponse) {
  open({{"trace_level", {"TENSORS"}}, {"trace_rate", {"1"}}});
  load("max_batch_size: 4");
  traced(test::request_of(Tensor::of<int32_t>({1, 3}, {1, 2, 3}))).wait();
  finish();
  const json traces = read();
  ASSERT_EQ(traces.size(), 3u) << "no timestamps were asked for";
  EXPECT_EQ(traces[1], json::parse(R"({"id":1,"activity":"TENSOR_QUEUE_INPUT","tensor":{"name":"IN","data":"1,2,3","shape":"1,3",
                                       "dtype":"INT32"}})"));
  EXPECT_EQ(traces[2]["activity"], "TENSOR_BACKEND_OUTPUT");
  EXPECT_EQ(traces[2]["tensor"]["data"], "2,4,6");
}

TEST_F(TraceFiles, NumberedFilesAreFullAndComplete) {
  open({{"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"1"}}, {"log_frequency", {"3"}}});
  load("max_batch_size: 4");
  for (int i = 0; i < 8; ++i) traced(test::row(i)).wait();
  finish();
  EXPECT_FALSE(std::filesystem::exists(file()));
  EXPECT_EQ(read(".0").size(), 6u);
  EXPECT_EQ(read(".1").size(), 6u);
  EXPECT_EQ(read(".2").size(), 4u);
  EXPECT_FALSE(std::filesystem::exists(file(".3")));
}

TEST_F(TraceFiles, TheFileIsCompleteWhileMoreComes) {
  open({{"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"1"}}});
  load("max_batch_size: 4");
  for (size_t round = 1; round <= 3; ++round) {
    traced(test::row(1)).wait();
    for (int i = 0; i < 1000 && (!std::filesystem::exists(file()) || read().size() < 2 * round); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_EQ(read().size(), 2 * round);
  }
}

TEST_F(TraceFiles, AFailureIsTold) {
  open({{"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"1"}}});
  load("max_batch_size: 4");
  fake.behaviour = [](const tkb_request* const*, size_t) { throw std::runtime_error("out of luck"); };
  traced(test::row(1)).wait();
  finish();
  EXPECT_THAT(read()[0]["error"].get<std::string>(), HasSubstr("out of luck"));
}

TEST_F(TraceFiles, AFullQueueDrops) {
  open({{"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"1"}}}, {.max_queue_size = 2});
  {
    std::vector<std::shared_ptr<Trace>> traces;  // that end together, faster than the thread wakes
    for (int i = 0; i < 500; ++i) traces.push_back(tracer_->begin(TraceKind::Inference, "m", 1, "", ""));
  }
  finish();
  EXPECT_GT(tracer_->num_dropped(), 0u);
  EXPECT_EQ(read().size() / 2 + tracer_->num_dropped(), 500u);
}

TEST_F(TraceFiles, AFolderThatIsMissingIsToldAtTheStart) {
  const TraceOptions options{.settings = {{"trace_file", {(folder_ / "none" / "t.json").string()}}}};
  EXPECT_THAT(tokamak::test::message_of([&] { Tracer{options}; }), HasSubstr("none"));
}

// A collector that keeps what it is sent and answers what the test says.
class Collector {
 public:
  Collector() : http_({.address = "127.0.0.1", .port = 0}) {
    http_.route("POST", "/v1/traces", [this](std::shared_ptr<const http::Request> request, std::shared_ptr<http::Responder> responder) {
      const std::lock_guard lock(mutex_);
      if (num_refusals_ > 0) {
        --num_refusals_;
        return responder->send({.status = 503});
      }
      EXPECT_EQ(request->header("Content-Type"), "application/json");
      messages_.push_back(json::parse(request->text()));
      responder->send({});
    });
    http_.start();
  }
  std::string url() const { return fmt::format("http://127.0.0.1:{}/v1/traces", http_.port()); }
  void refuse(int count) {
    const std::lock_guard lock(mutex_);
    num_refusals_ = count;
  }
  std::vector<json> messages() {
    const std::lock_guard lock(mutex_);
    return messages_;
  }
  std::vector<json> spans() {
    std::vector<json> spans;
    for (const json& message : messages())
      for (const json& span : message["resourceSpans"][0]["scopeSpans"][0]["spans"]) spans.push_back(span);
    return spans;
  }

 private:
  std::mutex mutex_;
  std::vector<json> messages_;
  int num_refusals_ = 0;
  http::Server http_;
};

json value_of(const json& attributes, const std::string& key) {
  for (const json& attribute : attributes)
    if (attribute["key"] == key) return attribute["value"];
  return nullptr;
}

class TracesSent : public test::FakeBackendTest {
 protected:
  std::shared_ptr<Tracer> open(TraceOptions options = {}) {
    options.settings.insert({{"trace_mode", {"opentelemetry"}}, {"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"1"}}});
    if (options.url.empty()) options.url = collector_.url();
    return settings->tracer = std::make_shared<Tracer>(std::move(options));
  }
  void traced(const std::shared_ptr<Tracer>& tracer, const std::string& traceparent = {}) {
    auto request = test::row(3);
    request->model_name = "m";
    request->received_ns = steady_now_ns();
    request->traceparent = traceparent;
    tracer->begin(*request);
    send(std::move(request)).wait();
  }
  Collector collector_;
};

TEST_F(TracesSent, ThreeSpansUnderTheCallers) {
  const auto tracer = open({.resource = {{"deployment.environment", "test"}}});
  load("max_batch_size: 4");
  const auto before = std::chrono::system_clock::now();
  traced(tracer, kParent);
  model.reset();
  tracer->close();
  ASSERT_EQ(collector_.messages().size(), 1u);
  const json resource = collector_.messages()[0]["resourceSpans"][0]["resource"]["attributes"];
  EXPECT_EQ(value_of(resource, "service.name")["stringValue"], "tokamak");
  EXPECT_EQ(value_of(resource, "deployment.environment")["stringValue"], "test");
  const auto spans = collector_.spans();
  ASSERT_EQ(spans.size(), 3u);
  for (const json& span : spans) {
    EXPECT_EQ(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    const int64_t start = std::stoll(span["startTimeUnixNano"].get<std::string>());
    EXPECT_LE(start, std::stoll(span["endTimeUnixNano"].get<std::string>()));
    EXPECT_NEAR(static_cast<double>(start), static_cast<double>(before.time_since_epoch().count()), 5e9) << "Unix time";
  }
  EXPECT_EQ(spans[0]["name"], "InferRequest");
  EXPECT_EQ(spans[0]["parentSpanId"], "00f067aa0ba902b7");
  EXPECT_EQ(spans[0]["kind"], 2);
  EXPECT_EQ(spans[1]["name"], "m");
  EXPECT_EQ(spans[1]["parentSpanId"], spans[0]["spanId"]);
  EXPECT_EQ(value_of(spans[1]["attributes"], "triton.model_version")["intValue"], "1");
  EXPECT_EQ(spans[2]["name"], "compute");
  EXPECT_EQ(spans[2]["parentSpanId"], spans[1]["spanId"]);
}

TEST_F(TracesSent, ACallersDecisionHolds) {
  const auto tracer = open({.settings = {{"trace_rate", {"0"}}}});
  load("max_batch_size: 4");
  traced(tracer);
  traced(tracer, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
  traced(tracer, "nonsense");
  traced(tracer, kParent);
  model.reset();
  tracer->close();
  EXPECT_EQ(collector_.spans().size(), 3u);
}

TEST_F(TracesSent, ABatchIsSentWhenItIsFull) {
  const auto tracer = open({.schedule_delay_ms = 600'000, .max_batch_size = 4});
  for (int i = 0; i < 8; ++i) tracer->begin(TraceKind::LanguageModel, "m", steady_now_ns(), "", "");
  for (int i = 0; i < 1000 && collector_.messages().size() < 2; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(collector_.spans().size(), 8u);
}

TEST_F(TracesSent, ACollectorThatIsBusyIsAskedAgain) {
  const auto tracer = open({.schedule_delay_ms = 1});
  collector_.refuse(1);
  tracer->begin(TraceKind::LanguageModel, "m", steady_now_ns(), "", "");
  for (int i = 0; i < 1000 && collector_.messages().empty(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(collector_.spans().size(), 1u);
  EXPECT_EQ(tracer->num_dropped(), 0u);
}

TEST_F(TracesSent, ACollectorThatIsNotThereHoldsNothingUp) {
  const auto tracer = open({.url = "http://127.0.0.1:1/v1/traces", .schedule_delay_ms = 1, .max_batch_size = 1});
  for (int i = 0; i < 50; ++i) tracer->begin(TraceKind::LanguageModel, "m", steady_now_ns(), "", "");
  const auto before = std::chrono::steady_clock::now();
  tracer->close();
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(5));
  EXPECT_EQ(tracer->num_dropped(), 50u);
}

TEST_F(TracesSent, WhatCannotBe) {
  EXPECT_THAT(tokamak::test::message_of([&] { Tracer({.settings = {{"trace_mode", {"opentelemetry"}}}}); }), HasSubstr("url"));
  EXPECT_THAT(tokamak::test::message_of([&] { open({.url = "https://collector/v1/traces"}); }), HasSubstr("TLS"));
}

}  // namespace

}  // namespace tokamak::server
