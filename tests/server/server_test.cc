#include "server/server.h"

#include <gmock/gmock.h>

#include <future>

#include "grpc_service.pb.h"
#include "tests/server/fake_model.h"
#include "tests/support/message_of.h"

namespace tokamak::server {

namespace {

using testing::HasSubstr;
using testing::Not;

class Servers : public test::RepositoryTest {
 protected:
  Server& open(ServerOptions options = {}) {
    options.repository.paths = {path()};
    options.loader = loader();
    options.metrics.gpu = false;
    server_ = std::make_unique<Server>(std::move(options));
    server_->start();
    return *server_;
  }
  void TearDown() override {
    server_.reset();
    RepositoryTest::TearDown();
  }
  std::future<InferResponse> infer(const std::string& model, int64_t version = -1) {
    auto promise = std::make_shared<std::promise<InferResponse>>();
    auto request = std::make_unique<InferRequest>();
    request->model_name = model;
    request->model_version = version;
    request->on_response = [promise](InferResponse response) { promise->set_value(std::move(response)); };
    auto future = promise->get_future();
    server_->infer(std::move(request));
    return future;
  }

  std::unique_ptr<Server> server_;
};

TEST_F(Servers, AnswersAndCountsToZero) {
  put_model("a");
  auto& server = open();
  EXPECT_TRUE(server.is_ready());
  EXPECT_TRUE(server.is_model_ready("a"));
  EXPECT_FALSE(server.is_model_ready("a", 2));
  const auto response = infer("a").get();
  EXPECT_FALSE(response.error_code);
  EXPECT_EQ(response.model_version, 1);
  EXPECT_EQ(infer("a", 4).get().error, "Request for unknown model: 'a' version 4 is not found");
  EXPECT_EQ(infer("b").get().error_code, ErrorCode::NotFound);
  EXPECT_EQ(server.num_in_flight(), 0);
}

TEST_F(Servers, StrictReadinessWantsEveryModel) {
  put_model("a");
  put_model("b");
  put("b/1/model.fake", "bad");
  EXPECT_FALSE(open().is_ready());
  EXPECT_TRUE(open({.strict_readiness = false}).is_ready());
}

TEST_F(Servers, StopWaitsForWhatIsInFlight) {
  put_model("a");
  auto& server = open();
  auto model = server.find_model("a");
  auto& fake = dynamic_cast<test::FakeModel&>(*model);
  fake.hold();
  auto answer = infer("a");
  auto held = server.hold();
  ASSERT_TRUE(held);
  EXPECT_EQ(server.num_in_flight(), 2);
  auto stopped = std::async(std::launch::async, [&] { return server.stop(std::chrono::seconds(10)); });
  while (server.is_live()) std::this_thread::yield();
  EXPECT_EQ(infer("a").get().error_code, ErrorCode::Unavailable);
  EXPECT_FALSE(server.hold());
  EXPECT_EQ(stopped.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  fake.release();
  EXPECT_FALSE(answer.get().error_code);
  held.reset();
  model.reset();
  EXPECT_TRUE(stopped.get());
  EXPECT_EQ(num_live_, 0);
}

TEST_F(Servers, StopGivesUpInTime) {
  put_model("a");
  auto& server = open();
  auto model = server.find_model("a");
  auto& fake = dynamic_cast<test::FakeModel&>(*model);
  fake.hold();
  auto answer = infer("a");
  EXPECT_FALSE(server.stop(std::chrono::milliseconds(50)));
  fake.release();
  EXPECT_FALSE(answer.get().error_code);
}

TEST_F(Servers, VersionsAreNumbersAboveZero) {
  EXPECT_EQ(Server::parse_version(""), -1);
  EXPECT_EQ(Server::parse_version("12"), 12);
  for (const char* text : {"0", "-1", "x", "1x", " 1", "99999999999999999999"}) EXPECT_THROW(Server::parse_version(text), Error) << text;
}

TEST_F(Servers, StatisticsOfReadyModels) {
  put_model("a");
  put_model("b");
  auto& server = open();
  server.find_model("a")->statistics().record_success(4, {.request_start = 0, .request_end = 10});
  inference::ModelStatisticsResponse all, one;
  server.fill_statistics("", -1, all);
  EXPECT_EQ(all.model_stats_size(), 2);
  server.fill_statistics("a", 1, one);
  ASSERT_EQ(one.model_stats_size(), 1);
  EXPECT_EQ(one.model_stats(0).inference_count(), 4u);
  EXPECT_EQ(test::message_of([&] { server.fill_statistics("c", -1, one); }), "Request for unknown model: 'c' is not found");
}

TEST_F(Servers, MetricsText) {
  put_model("a", "backend: 'fake' metric_tags { key: 'team' value: 'say \"hi\"\\n' }");
  auto& server = open({.metrics = {.histograms = true, .summaries = true, .quantiles = {0.5}}});
  auto model = server.find_model("a");
  auto& statistics = model->statistics();
  statistics.record_success(4, {.request_start = 0, .queue_start = 0, .compute_start = 2'000, .request_end = 10'000'000});
  statistics.record_failure(FailureReason::Canceled, 1);
  statistics.record_first_response(300'000'000);
  statistics.add_pending(2);
  const std::string text = server.metrics_text();
  EXPECT_THAT(text, HasSubstr("# TYPE nv_inference_request_success counter\n"
                              "nv_inference_request_success{model=\"a\",version=\"1\",team=\"say \\\"hi\\\"\\n\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("nv_inference_count{model=\"a\",version=\"1\",team=\"say \\\"hi\\\"\\n\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("reason=\"CANCELED\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("reason=\"BACKEND\"} 0\n"));
  EXPECT_THAT(text, testing::ContainsRegex("nv_inference_request_duration_us\\{[^}]*\\} 10000\n"));
  EXPECT_THAT(text, testing::ContainsRegex("nv_inference_queue_duration_us\\{[^}]*\\} 2\n"));
  EXPECT_THAT(text, testing::ContainsRegex("nv_inference_pending_request_count\\{[^}]*\\} 2\n"));
  EXPECT_THAT(text, testing::ContainsRegex("nv_inference_first_response_histogram_ms_bucket\\{[^}]*le=\"100\"\\} 0\n"));
  EXPECT_THAT(text, testing::ContainsRegex("nv_inference_first_response_histogram_ms_bucket\\{[^}]*le=\"500\"\\} 1\n"));
  EXPECT_THAT(text, testing::ContainsRegex("nv_inference_first_response_histogram_ms_bucket\\{[^}]*le=\"\\+Inf\"\\} 1\n"));
  EXPECT_THAT(text, testing::ContainsRegex("nv_inference_request_summary_us_count\\{[^}]*\\} 1\n"));
  EXPECT_THAT(text, HasSubstr("nv_cpu_utilization "));
  EXPECT_THAT(text, Not(HasSubstr("vllm:")));
}

TEST_F(Servers, MetricsOfLanguageModels) {
  put_model("a");
  auto& server = open();
  auto& llm = *server.metrics().llm();
  llm.on_first_token("chat", 0.03);
  llm.on_inter_token("chat", 0.02);
  llm.on_finished("chat", {.reason = llm::FinishReason::Stop, .num_answers = 1, .completion_tokens = 7, .e2e_s = 0.6});
  llm.on_finished("chat", {.reason = llm::FinishReason::Abort});
  const std::string text = server.metrics_text();
  EXPECT_THAT(text, HasSubstr("vllm:request_success_total{model_name=\"chat\",engine=\"0\",finished_reason=\"stop\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("vllm:time_to_first_token_seconds_bucket{model_name=\"chat\",engine=\"0\",le=\"0.02\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("vllm:time_to_first_token_seconds_bucket{model_name=\"chat\",engine=\"0\",le=\"0.04\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("vllm:e2e_request_latency_seconds_count{model_name=\"chat\",engine=\"0\"} 1\n"));
}

}  // namespace

}  // namespace tokamak::server
