#include "server/trace_settings.h"

#include <charconv>
#include <cstdint>
#include <limits>

#include "base/error.h"
#include "server/log.h"

namespace tokamak::server {

namespace {

const TraceSettings kDefaults = {{"trace_file", {""}},    {"trace_level", {"OFF"}}, {"trace_rate", {"1000"}},
                                 {"trace_count", {"-1"}}, {"log_frequency", {"0"}}, {"trace_mode", {"triton"}}};

void check_number(const std::string& name, const std::vector<std::string>& values, int64_t least, int64_t most) {
  if (values.size() != 1) fail(ErrorCode::InvalidArgument, "expect only 1 value for '{}', got {}", name, values.size());
  const std::string& text = values[0];
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < least || number > most)
    fail(ErrorCode::InvalidArgument, "Unable to parse '{}', expect a number from {} to {}, got: {}", name, least, most, text);
}

void check(const std::string& name, const std::vector<std::string>& values) {
  if (name == "trace_level") {
    if (values.empty()) fail(ErrorCode::InvalidArgument, "expect at least 1 value for 'trace_level'");
    for (const std::string& value : values) {
      if (value != "OFF" && value != "TIMESTAMPS" && value != "TENSORS" && value != "MIN" && value != "MAX")
        fail(ErrorCode::InvalidArgument, "trace_level is OFF, TIMESTAMPS or TENSORS, got: {}", value);
      if (value == "OFF" && values.size() > 1)
        fail(ErrorCode::InvalidArgument, "Expect only one trace level 'OFF' is specified, it excludes other levels");
    }
  } else if (name == "trace_rate") {
    check_number(name, values, 0, std::numeric_limits<uint32_t>::max());
  } else if (name == "trace_count") {
    check_number(name, values, -1, std::numeric_limits<int32_t>::max());
  } else if (name == "log_frequency") {
    check_number(name, values, 0, std::numeric_limits<uint32_t>::max());
  } else if (name == "trace_mode") {
    if (values.size() != 1 || (values[0] != "triton" && values[0] != "opentelemetry"))
      fail(ErrorCode::InvalidArgument, "trace_mode is triton or opentelemetry");
  } else if (name == "trace_file") {
    if (values.size() != 1) fail(ErrorCode::InvalidArgument, "expect only 1 value for 'trace_file', got {}", values.size());
  } else {
    fail(ErrorCode::InvalidArgument, "unexpected trace setting '{}', known are: trace_level, trace_rate, trace_count, log_frequency", name);
  }
}

void warn_when_on(const std::vector<std::string>& levels) {
  if (levels != kDefaults.at("trace_level")) log_warning("trace settings are kept and shown, but this version writes no traces");
}

}  // namespace

TraceControl::TraceControl(const TraceSettings& initial) : initial_(kDefaults) {
  for (const auto& [name, values] : initial) {
    check(name, values);
    initial_[name] = values;
  }
  global_ = initial_;
  warn_when_on(initial_.at("trace_level"));
}

TraceSettings TraceControl::settings(const std::string& model) const {
  const std::lock_guard lock(mutex_);
  TraceSettings settings = global_;
  if (const auto it = models_.find(model); it != models_.end())
    for (const auto& [name, values] : it->second) settings[name] = values;
  return settings;
}

TraceSettings TraceControl::update(const std::string& model, const TraceUpdate& update) {
  for (const auto& [name, values] : update) {
    if (name == "trace_file") fail(ErrorCode::InvalidArgument, "trace file location can not be updated through network protocol");
    if (name == "trace_mode") fail(ErrorCode::InvalidArgument, "trace mode can not be updated through network protocol");
    check(name, values ? *values : kDefaults.contains(name) ? kDefaults.at(name) : std::vector<std::string>{});
  }
  {
    const std::lock_guard lock(mutex_);
    TraceSettings& own = model.empty() ? global_ : models_[model];
    for (const auto& [name, values] : update) {
      if (values) own[name] = *values;
      else if (model.empty()) own[name] = initial_.at(name);
      else own.erase(name);
    }
  }
  const TraceSettings now = settings(model);
  if (update.contains("trace_level")) warn_when_on(now.at("trace_level"));
  return now;
}

void TraceControl::forget_model(const std::string& model) {
  const std::lock_guard lock(mutex_);
  models_.erase(model);
}

}  // namespace tokamak::server
