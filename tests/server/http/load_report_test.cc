#include "server/http/load_report.h"

#include <gtest/gtest.h>

#include "tests/server/openai/fake_models.h"

namespace tokamak::server::http {
namespace {

TEST(LoadReport, AsTritonWritesIt) {
  const llm::Statistics statistics{.blocks_used = 3, .blocks_total = 12, .block_size = 16};
  EXPECT_EQ(load_report("json", statistics), R"(JSON {"named_metrics":{"kv_cache_utilization":0.25,"max_token_capacity":192}})");
  EXPECT_EQ(load_report("text", statistics), "TEXT named_metrics.kv_cache_utilization=0.250000, named_metrics.max_token_capacity=192");
  EXPECT_EQ(load_report("proto", statistics), "");
}

TEST(LoadReport, OnlyWhoAsksGetsIt) {
  const auto llm = std::make_shared<FakeLlm>("words");
  const FakeServer server{{llm}};
  for (const bool stream : {false, true}) {
    const nlohmann::json body = {{"model", "words"}, {"prompt", "Hello"}, {"stream", stream}};
    for (const char* format : {"json", "text", ""}) {
      const auto responder = server.start(&openai::Service::completions, body.dump(), {{"Endpoint-Load-Metrics-Format", format}});
      ASSERT_TRUE(responder->wait());
      const std::string report = responder->header("endpoint-load-metrics");
      if (*format == 0) EXPECT_EQ(report, "");
      else EXPECT_NE(report.find("max_token_capacity"), std::string::npos) << report;
    }
  }
}

}  // namespace
}  // namespace tokamak::server::http
