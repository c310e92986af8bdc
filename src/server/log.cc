#include "server/log.h"

#include <unistd.h>

#include <chrono>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace tokamak::server {

namespace {

constexpr const char* kFormats[] = {"default", "ISO8601", "JSON"};

int64_t unix_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Control characters as escapes, so that no text can begin a line.
std::string escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') out += "\\n";
    else if (c == '\r') out += "\\r";
    else if (c == '\t') out += "\\t";
    else if (byte < 0x20 || byte == 0x7f) out += fmt::format("\\x{:02x}", byte);
    else out += c;
  }
  return out;
}

}  // namespace

std::string log_line(Severity severity, std::string_view message, std::string_view format, int64_t now_us, int pid) {
  const auto seconds = static_cast<std::time_t>(now_us / 1'000'000);
  const int micros = static_cast<int>(now_us % 1'000'000);
  std::tm utc = {};
  gmtime_r(&seconds, &utc);
  const char letter = "EWIV"[static_cast<int>(severity)];
  const std::string time = fmt::format("{:02}:{:02}:{:02}", utc.tm_hour, utc.tm_min, utc.tm_sec);
  const std::string date = fmt::format("{}-{:02}-{:02}", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
  if (format == "JSON") {
    constexpr const char* kNames[] = {"error", "warning", "info", "verbose"};
    const nlohmann::ordered_json json = {{"time", fmt::format("{}T{}.{:06}Z", date, time, micros)},
                                         {"level", kNames[static_cast<int>(severity)]},
                                         {"pid", pid},
                                         {"message", std::string(message)}};
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  if (format == "ISO8601") return fmt::format("{}T{}Z {} {} {}", date, time, letter, pid, escaped(message));
  return fmt::format("{}{:02}{:02} {}.{:06} {}] {}", letter, utc.tm_mon + 1, utc.tm_mday, time, micros, pid, escaped(message));
}

Log::~Log() {
  if (file_) std::fclose(file_);
}

LogSettings Log::settings() const {
  const std::lock_guard lock(mutex_);
  return settings_;
}

void Log::set(LogSettings settings) {
  bool is_known = false;
  for (const char* format : kFormats) is_known |= settings.format == format;
  if (!is_known) fail(ErrorCode::InvalidArgument, "log_format is 'default', 'ISO8601' or 'JSON', not '{}'", settings.format);
  if (settings.verbose_level < 0) fail(ErrorCode::InvalidArgument, "log_verbose_level is at least 0, not {}", settings.verbose_level);
  const std::lock_guard lock(mutex_);
  if (settings.file != settings_.file) {
    std::FILE* file = nullptr;
    if (!settings.file.empty() && !(file = std::fopen(settings.file.c_str(), "ae")))
      fail(ErrorCode::Io, "cannot open log file '{}': {}", settings.file, std::strerror(errno));
    if (file_) std::fclose(file_);
    file_ = file;
  }
  mask_ = (settings.error ? 1 : 0) | (settings.warning ? 2 : 0) | (settings.info ? 4 : 0);
  verbose_level_ = settings.verbose_level;
  settings_ = std::move(settings);
}

bool Log::is_on(Severity severity, int verbose_level) const {
  if (severity == Severity::Verbose) return verbose_level <= verbose_level_.load(std::memory_order_relaxed);
  return (mask_.load(std::memory_order_relaxed) >> static_cast<int>(severity)) & 1;
}

void Log::write(Severity severity, std::string_view message) {
  const std::lock_guard lock(mutex_);
  const std::string line = log_line(severity, message, settings_.format, unix_us(), static_cast<int>(getpid())) + "\n";
  std::FILE* out = file_ ? file_ : stderr;
  std::fwrite(line.data(), 1, line.size(), out);
  std::fflush(out);
}

Log& log() {
  static Log* const instance = new Log;  // never destroyed: threads may log while the process ends
  return *instance;
}

}  // namespace tokamak::server
