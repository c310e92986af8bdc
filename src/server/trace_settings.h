#pragma once
// The trace settings of Triton's trace extension, server-wide and a model's own where it has some; and what follows from them: which
// requests are traced.

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace tokamak::server {

// Setting: values. Only trace_level may have several ("TIMESTAMPS", "TENSORS"; "OFF" alone).
using TraceSettings = std::map<std::string, std::vector<std::string>>;
// An absent value clears the setting: a model's falls back to the server's, the server's to the one of the command line.
using TraceUpdate = std::map<std::string, std::optional<std::vector<std::string>>>;

// What one traced request is to tell.
struct TraceSample {
  bool has_timestamps = false, has_tensors = false;
  uint64_t log_frequency = 0;  // traces a file; 0: one file for all
  std::string scope;           // the model whose own settings these are, "" for the server's: each scope has its files
};

// Thread-safe.
class TraceControl {
 public:
  // Throws InvalidArgument as update(), and when the level asks for traces that could go nowhere: no trace_file in mode triton.
  explicit TraceControl(const TraceSettings& initial = {});

  // trace_file, trace_level, trace_rate, trace_count (those that are left), log_frequency, trace_mode; of the server when `model` is "".
  TraceSettings settings(const std::string& model) const;
  // Throws InvalidArgument for an unknown setting, a value it cannot have, or trace_file and trace_mode, which only the command line sets;
  // then nothing changes. Returns the settings that hold now.
  TraceSettings update(const std::string& model, const TraceUpdate& update);

  // False: no request is traced now. One relaxed load.
  bool is_on() const { return is_on_.load(std::memory_order_relaxed); }
  // Whether and how this request of `model` is traced: every trace_rate-th, while trace_count lasts. In mode opentelemetry a caller that
  // has decided (`caller_sampled`, of its traceparent) decides, whatever rate and count say. Counts the request.
  std::optional<TraceSample> sample(const std::string& model, std::optional<bool> caller_sampled);

 private:
  // Settings that hold for a scope, as numbers, and how far they are used up.
  struct Scope {
    TraceSample sample;
    bool is_on = false;  // the level
    uint64_t rate = 0, num_seen = 0;
    int64_t count_left = -1;
  };
  void warn(const TraceSettings& settings) const;
  TraceSettings resolve_locked(const std::string& model) const;
  void refresh_locked(Scope& scope, const std::string& model, bool resets_count);
  bool can_sample(const Scope& scope) const;
  void refresh_switch_locked();

  mutable std::mutex mutex_;
  TraceSettings initial_, global_;
  std::map<std::string, TraceSettings> own_;  // of models
  std::map<std::string, Scope> scopes_;       // of the models in own_, and of "" for all others
  bool is_opentelemetry_ = false, has_file_ = false;
  std::atomic<bool> is_on_ = false;
};

}  // namespace tokamak::server
