#pragma once
// The server's log: lines on standard error or in a file, in Triton's form or as JSON. What comes from a client or a file cannot begin a
// line of its own: control characters are escaped.

#include <fmt/format.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

namespace tokamak::server {

enum class Severity { Error, Warning, Info, Verbose };

struct LogSettings {
  std::string file;  // "": standard error
  bool info = true, warning = true, error = true;
  int verbose_level = 0;           // 0: off
  std::string format = "default";  // "ISO8601", "JSON"
};

class Log {
 public:
  Log() = default;
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  LogSettings settings() const;
  // Throws InvalidArgument for an unknown format, Io when the file cannot be opened; then nothing changes.
  void set(LogSettings settings);
  bool is_on(Severity severity, int verbose_level = 1) const;
  void write(Severity severity, std::string_view message);

 private:
  mutable std::mutex mutex_;
  LogSettings settings_;
  std::FILE* file_ = nullptr;
  std::atomic<int> mask_ = 0b0111;  // bit per severity
  std::atomic<int> verbose_level_ = 0;
};

// The one of this process.
Log& log();

template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  if (log().is_on(Severity::Error)) log().write(Severity::Error, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  if (log().is_on(Severity::Warning)) log().write(Severity::Warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log().is_on(Severity::Info)) log().write(Severity::Info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_verbose(int level, fmt::format_string<Args...> format, Args&&... args) {
  if (log().is_on(Severity::Verbose, level)) log().write(Severity::Verbose, fmt::format(format, std::forward<Args>(args)...));
}

// One line of the log, without its end. `now_us`: Unix time.
std::string log_line(Severity severity, std::string_view message, std::string_view format, int64_t now_us, int pid);

}  // namespace tokamak::server
