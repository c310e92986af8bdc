#pragma once
// The trace settings of Triton's trace extension: server-wide, and a model's own where it has some.

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

// Thread-safe.
class TraceControl {
 public:
  // Throws InvalidArgument as update().
  explicit TraceControl(const TraceSettings& initial = {});

  // trace_file, trace_level, trace_rate, trace_count, log_frequency, trace_mode; of the server when `model` is "".
  TraceSettings settings(const std::string& model) const;
  // Throws InvalidArgument for an unknown setting, a value it cannot have, or trace_file and trace_mode, which only the command line sets;
  // then nothing changes. Returns the settings that hold now.
  TraceSettings update(const std::string& model, const TraceUpdate& update);
  void forget_model(const std::string& model);

 private:
  mutable std::mutex mutex_;
  TraceSettings initial_, global_;
  std::map<std::string, TraceSettings> models_;
};

}  // namespace tokamak::server
