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

}  // namespace

}  // namespace tokamak::server
