#include "server/statistics.h"

#include <gmock/gmock.h>

#include "grpc_service.pb.h"
#include "model_config.pb.h"

namespace tokamak::server {

namespace {

using testing::HasSubstr;

constexpr RequestTimes kTimes = {.request_start = 100,
                                 .queue_start = 110,
                                 .compute_start = 150,
                                 .compute_input_end = 155,
                                 .compute_output_start = 255,
                                 .compute_end = 257,
                                 .request_end = 260};

TEST(ServerStatistics, RequestsExecutionsAndFailures) {
  ModelStatistics statistics("m", 3);
  statistics.record_success(2, kTimes);
  statistics.record_success(1, kTimes);
  statistics.record_execution(3, {.compute_input_ns = 5, .compute_infer_ns = 100, .compute_output_ns = 2});
  statistics.record_failure(FailureReason::Rejected, 7);
  statistics.record_cache_hit(11, 3, 20);
  statistics.record_cache_miss(13);
  inference::ModelStatistics out;
  statistics.fill(out);
  EXPECT_EQ(out.name(), "m");
  EXPECT_EQ(out.version(), "3");
  EXPECT_GT(out.last_inference(), 1'600'000'000'000u);
  EXPECT_EQ(out.inference_count(), 3u);
  EXPECT_EQ(out.execution_count(), 1u);
  EXPECT_EQ(out.inference_stats().success().count(), 3u);
  EXPECT_EQ(out.inference_stats().success().ns(), 160u + 160 + 20);
  EXPECT_EQ(out.inference_stats().queue().ns(), 40u + 40 + 3);
  EXPECT_EQ(out.inference_stats().compute_input().ns(), 10u);
  EXPECT_EQ(out.inference_stats().compute_infer().ns(), 200u);
  EXPECT_EQ(out.inference_stats().compute_output().ns(), 4u);
  EXPECT_EQ(out.inference_stats().fail().count(), 1u);
  EXPECT_EQ(out.inference_stats().cache_hit().ns(), 11u);
  EXPECT_EQ(out.inference_stats().cache_miss().ns(), 13u);
  ASSERT_EQ(out.batch_stats_size(), 1);
  EXPECT_EQ(out.batch_stats(0).batch_size(), 3u);
  EXPECT_EQ(out.batch_stats(0).compute_infer().ns(), 100u);
  EXPECT_EQ(statistics.totals().failures[static_cast<size_t>(FailureReason::Rejected)], 1u);
}

TEST(ServerStatistics, ResponsesByIndex) {
  ModelStatistics statistics("m", 1);
  statistics.record_response(0, ResponseOutcome::Success, 10, 30, 35);
  statistics.record_response(0, ResponseOutcome::Success, 10, 30, 35);
  statistics.record_response(1, ResponseOutcome::Fail, 10, 0, 14);
  statistics.record_response(2, ResponseOutcome::Empty, 10, 0, 11);
  statistics.record_response(2, ResponseOutcome::Cancel, 10, 0, 12);
  statistics.record_response(1 << 30, ResponseOutcome::Empty, 10, 0, 12);
  inference::ModelStatistics out;
  statistics.fill(out);
  EXPECT_EQ(out.response_stats_size(), 4);
  EXPECT_EQ(out.response_stats().at("0").success().count(), 2u);
  EXPECT_EQ(out.response_stats().at("0").compute_infer().ns(), 40u);
  EXPECT_EQ(out.response_stats().at("0").compute_output().ns(), 10u);
  EXPECT_EQ(out.response_stats().at("1").fail().ns(), 4u);
  EXPECT_EQ(out.response_stats().at("1").compute_output().count(), 0u);
  EXPECT_EQ(out.response_stats().at("2").empty_response().count(), 1u);
  EXPECT_EQ(out.response_stats().at("2").cancel().ns(), 2u);
}

TEST(ServerHistogram, CountsPerBucket) {
  Histogram histogram({1, 10});
  for (const double value : {0.5, 1.0, 2.0, 10.0, 11.0}) histogram.observe(value);
  EXPECT_THAT(histogram.counts(), testing::ElementsAre(2, 2, 1));
  EXPECT_EQ(histogram.count(), 5u);
  EXPECT_DOUBLE_EQ(histogram.sum(), 24.5);
}

TEST(ServerHistogram, QuantilesOfTheLastMinute) {
  Quantiles quantiles;
  EXPECT_TRUE(std::isnan(quantiles.quantile(0.5, 0)));
  for (int i = 1; i <= 1000; ++i) quantiles.observe(i, 0);
  EXPECT_NEAR(quantiles.quantile(0.5, 0), 500, 15);
  EXPECT_NEAR(quantiles.quantile(0.99, 0), 990, 25);
  const int64_t later = 40'000'000'000;
  quantiles.observe(5000, later);
  EXPECT_NEAR(quantiles.quantile(1, later), 5000, 150);
  EXPECT_NEAR(quantiles.quantile(0.5, 70'000'000'000), 5000, 150);  // the first thousand are too old
  EXPECT_TRUE(std::isnan(quantiles.quantile(0.5, 500'000'000'000)));
  EXPECT_EQ(quantiles.count(), 1001u);
}

TEST(ServerStatistics, AModelsBuckets) {
  ModelStatistics statistics("m", 1);
  inference::ModelConfig config;
  auto& control = *config.mutable_model_metrics()->add_metric_control();
  control.mutable_metric_identifier()->set_family(kFirstResponseHistogram);
  for (const double bound : {1.0, 2.5}) control.mutable_histogram_options()->add_buckets(bound);
  const auto bounds = [&] {
    std::vector<double> found;
    statistics.read_distributions([&](const auto& d) { found = d.first_response_ms.bounds(); });
    return found;
  };
  const auto before = bounds();
  statistics.configure(config);
  EXPECT_EQ(bounds(), (std::vector<double>{1.0, 2.5}));
  statistics.record_first_response(2'000'000);
  statistics.configure(config);  // the same again: what was counted stays
  statistics.read_distributions([](const auto& d) { EXPECT_EQ(d.first_response_ms.count(), 1u); });
  statistics.configure({});
  EXPECT_EQ(bounds(), before);
}

}  // namespace

}  // namespace tokamak::server
