#include "server/trace_settings.h"

#include <algorithm>
#include <charconv>
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

int64_t number_of(const TraceSettings& settings, const char* name) { return std::stoll(settings.at(name)[0]); }

}  // namespace

TraceControl::TraceControl(const TraceSettings& initial) : initial_(kDefaults) {
  for (const auto& [name, values] : initial) {
    check(name, values);
    initial_[name] = values;
  }
  global_ = initial_;
  is_opentelemetry_ = global_.at("trace_mode")[0] == "opentelemetry";
  has_file_ = !global_.at("trace_file")[0].empty();
  if (global_.at("trace_level")[0] != "OFF" && !is_opentelemetry_ && !has_file_)
    fail(ErrorCode::InvalidArgument, "trace_level is {}, and there is no file to write traces to: expected --trace-config triton,file=FILE",
         global_.at("trace_level")[0]);
  warn(global_);
  refresh_locked(scopes_[""], "", true);
  refresh_switch_locked();
}

// What is asked for and does not happen.
void TraceControl::warn(const TraceSettings& settings) const {
  const auto& levels = settings.at("trace_level");
  if (!is_opentelemetry_ && !has_file_ && levels[0] != "OFF")
    log_warning("trace_level is {}, and nothing is traced: the server was started without --trace-config triton,file=FILE", levels[0]);
  if (is_opentelemetry_ && std::ranges::find(levels, "TENSORS") != levels.end())
    log_warning("trace_level TENSORS is for trace_mode triton: a collector gets no tensors");
}

TraceSettings TraceControl::resolve_locked(const std::string& model) const {
  TraceSettings settings = global_;
  if (const auto it = own_.find(model); it != own_.end())
    for (const auto& [name, values] : it->second) settings[name] = values;
  return settings;
}

TraceSettings TraceControl::settings(const std::string& model) const {
  const std::lock_guard lock(mutex_);
  TraceSettings settings = resolve_locked(model);
  const auto scope = scopes_.contains(model) ? scopes_.find(model) : scopes_.find("");
  settings["trace_count"] = {std::to_string(scope->second.count_left)};
  return settings;
}

void TraceControl::refresh_locked(Scope& scope, const std::string& model, bool resets_count) {
  const TraceSettings settings = resolve_locked(model);
  const auto& levels = settings.at("trace_level");
  const auto has = [&](const char* level) { return std::ranges::find(levels, level) != levels.end(); };
  scope.is_on = !has("OFF");
  scope.sample = {.has_timestamps = has("TIMESTAMPS") || has("MIN") || has("MAX"),  // the last two are its former names
                  .has_tensors = has("TENSORS") && !is_opentelemetry_,
                  .log_frequency = static_cast<uint64_t>(number_of(settings, "log_frequency")),
                  .scope = model};
  scope.rate = static_cast<uint64_t>(number_of(settings, "trace_rate"));
  scope.num_seen = 0;
  if (resets_count) scope.count_left = number_of(settings, "trace_count");
}

bool TraceControl::can_sample(const Scope& scope) const {
  if (!scope.is_on) return false;
  return is_opentelemetry_ || (has_file_ && scope.rate > 0 && scope.count_left != 0);
}

void TraceControl::refresh_switch_locked() {
  is_on_ = std::ranges::any_of(scopes_, [&](const auto& entry) { return can_sample(entry.second); });
}

TraceSettings TraceControl::update(const std::string& model, const TraceUpdate& update) {
  for (const auto& [name, values] : update) {
    if (name == "trace_file") fail(ErrorCode::InvalidArgument, "trace file location can not be updated through network protocol");
    if (name == "trace_mode") fail(ErrorCode::InvalidArgument, "trace mode can not be updated through network protocol");
    check(name, values ? *values : kDefaults.contains(name) ? kDefaults.at(name) : std::vector<std::string>{});
  }
  {
    const std::lock_guard lock(mutex_);
    TraceSettings& own = model.empty() ? global_ : own_[model];
    for (const auto& [name, values] : update) {
      if (values) own[name] = *values;
      else if (model.empty()) own[name] = initial_.at(name);
      else own.erase(name);
    }
    const bool has_count = update.contains("trace_count");
    if (model.empty()) {
      refresh_locked(scopes_[""], "", has_count);
      for (auto& [name, settings] : own_) refresh_locked(scopes_[name], name, has_count && !settings.contains("trace_count"));
    } else if (own.empty()) {
      own_.erase(model);
      scopes_.erase(model);
    } else {
      const auto [scope, is_new] = scopes_.try_emplace(model);
      refresh_locked(scope->second, model, has_count || is_new);
    }
    refresh_switch_locked();
  }
  const TraceSettings now = settings(model);
  warn(now);
  return now;
}

std::optional<TraceSample> TraceControl::sample(const std::string& model, std::optional<bool> caller_sampled) {
  const std::lock_guard lock(mutex_);
  const auto own = scopes_.find(model);
  Scope& scope = own == scopes_.end() ? scopes_.at("") : own->second;
  if (!can_sample(scope)) return std::nullopt;
  if (is_opentelemetry_ && caller_sampled) return *caller_sampled ? std::optional(scope.sample) : std::nullopt;
  if (scope.rate == 0 || scope.count_left == 0 || ++scope.num_seen % scope.rate != 0) return std::nullopt;
  if (scope.count_left > 0 && --scope.count_left == 0) refresh_switch_locked();
  return scope.sample;
}

}  // namespace tokamak::server
