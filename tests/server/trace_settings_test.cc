#include "server/trace_settings.h"

#include <gmock/gmock.h>

#include "base/error.h"

namespace tokamak::server {

namespace {

using testing::ElementsAre;

TEST(ServerTraceSettings, AModelsOwnComeFirst) {
  TraceControl control(TraceSettings{{"trace_rate", {"500"}}});
  EXPECT_THAT(control.settings("m").at("trace_level"), ElementsAre("OFF"));
  control.update("m", {{"trace_level", {{"TIMESTAMPS", "TENSORS"}}}, {"trace_rate", {{"1"}}}});
  control.update("", {{"trace_rate", {{"7"}}}, {"trace_count", {{"3"}}}});
  EXPECT_THAT(control.settings("m").at("trace_rate"), ElementsAre("1"));
  EXPECT_THAT(control.settings("m").at("trace_count"), ElementsAre("3"));
  EXPECT_THAT(control.settings("").at("trace_level"), ElementsAre("OFF"));
  control.update("m", {{"trace_rate", std::nullopt}});
  EXPECT_THAT(control.settings("m").at("trace_rate"), ElementsAre("7"));
  control.update("", {{"trace_rate", std::nullopt}});
  EXPECT_THAT(control.settings("m").at("trace_rate"), ElementsAre("500"));
}

TEST(ServerTraceSettings, RefusesAndChangesNothing) {
  TraceControl control;
  const auto before = control.settings("");
  const TraceUpdate kBad[] = {
      {{"trace_file", {{"x"}}}},           {{"trace_mode", {{"triton"}}}}, {{"trace_level", {{"LOUD"}}}},
      {{"trace_level", {{"OFF", "MAX"}}}}, {{"trace_rate", {{"-1"}}}},     {{"trace_rate", {{"1x"}}}},
      {{"trace_count", {{"1", "2"}}}},     {{"no_such", {{"1"}}}},         {{"trace_rate", {{"99999999999999999999"}}}}};
  for (const auto& bad : kBad) {
    TraceUpdate update = bad;
    update["log_frequency"] = std::vector<std::string>{"9"};
    EXPECT_THROW(control.update("", update), Error) << bad.begin()->first;
  }
  EXPECT_EQ(control.settings(""), before);
}

const std::optional<bool> kNoCaller;

int count_sampled(TraceControl& control, const std::string& model, int requests) {
  int count = 0;
  for (int i = 0; i < requests; ++i) count += control.sample(model, kNoCaller).has_value();
  return count;
}

TEST(ServerTraceSettings, EveryNthWhileTheCountLasts) {
  TraceControl control(
      TraceSettings{{"trace_file", {"f"}}, {"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"10"}}, {"trace_count", {"3"}}});
  EXPECT_TRUE(control.is_on());
  EXPECT_EQ(count_sampled(control, "m", 20), 2);
  EXPECT_THAT(control.settings("").at("trace_count"), ElementsAre("1"));
  EXPECT_EQ(count_sampled(control, "m", 200), 1);
  EXPECT_FALSE(control.is_on()) << "nothing is left to trace";
  control.update("", {{"trace_count", {{"-1"}}}});
  EXPECT_TRUE(control.is_on());
  EXPECT_EQ(count_sampled(control, "m", 200), 20);
  control.update("", {{"trace_level", {{"OFF"}}}});
  EXPECT_FALSE(control.is_on());
  EXPECT_EQ(count_sampled(control, "m", 20), 0);
}

TEST(ServerTraceSettings, AModelIsSampledByItsOwn) {
  TraceControl control(TraceSettings{{"trace_file", {"f"}}});
  EXPECT_FALSE(control.is_on());
  control.update("m", {{"trace_level", {{"TENSORS"}}}, {"trace_rate", {{"1"}}}, {"log_frequency", {{"5"}}}});
  EXPECT_TRUE(control.is_on());
  EXPECT_FALSE(control.sample("other", kNoCaller));
  const auto sample = control.sample("m", kNoCaller);
  ASSERT_TRUE(sample);
  EXPECT_TRUE(sample->has_tensors && !sample->has_timestamps);
  EXPECT_EQ(sample->log_frequency, 5u);
  EXPECT_EQ(sample->scope, "m");
  control.update("m", {{"trace_level", std::nullopt}, {"trace_rate", std::nullopt}, {"log_frequency", std::nullopt}});
  EXPECT_FALSE(control.is_on());
}

TEST(ServerTraceSettings, WithOpenTelemetryTheCallerDecides) {
  TraceControl control(
      TraceSettings{{"trace_mode", {"opentelemetry"}}, {"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"0"}}, {"trace_count", {"0"}}});
  EXPECT_TRUE(control.is_on());
  EXPECT_TRUE(control.sample("m", true));
  EXPECT_FALSE(control.sample("m", false));
  EXPECT_FALSE(control.sample("m", kNoCaller)) << "rate 0: only callers' traces";
}

TEST(ServerTraceSettings, TracesNeedAPlace) {
  EXPECT_THROW(TraceControl(TraceSettings{{"trace_level", {"TIMESTAMPS"}}}), Error);
  TraceControl control;
  control.update("", {{"trace_level", {{"TIMESTAMPS"}}}});
  EXPECT_FALSE(control.is_on());
}

}  // namespace

}  // namespace tokamak::server
