#include "tune/timing_cache.h"

#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/file.h"

namespace tokamak::tune {

namespace {
constexpr std::string_view kTitle = "# tokamak timing cache ";
const std::string kHeader = std::string(kTitle) + "2";
}  // namespace

void TimingCache::merge_file(const std::string& path) {
  std::string text;
  try {
    text = read_file(path);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::NotFound) return;
    throw;
  }
  std::string_view rest = text;
  for (int line_number = 1; !rest.empty(); ++line_number) {
    const size_t newline = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, newline);
    rest.remove_prefix(std::min(newline + 1, rest.size()));
    if (line_number == 1 && line != kHeader && line.starts_with(kTitle)) return;  // times of other kernels or taken in another way
    if (line_number == 1 && line != kHeader) fail(ErrorCode::Corrupt, "{}: not a timing cache (the first line is not `{}`)", path, kHeader);
    if (line.empty() || line[0] == '#') continue;
    const size_t tab = line.find('\t');
    int64_t ns = 0;
    const auto [end, code] = std::from_chars(line.data(), line.data() + std::min(tab, line.size()), ns);
    if (tab == std::string_view::npos || code != std::errc() || end != line.data() + tab || ns < 0)
      fail(ErrorCode::Corrupt, "{}: line {} is not `nanoseconds<tab>key`; delete the line or the file", path, line_number);
    times_.emplace(std::string(line.substr(tab + 1)), ns);
  }
}

void TimingCache::save(const std::string& path) {
  merge_file(path);
  std::string text = std::string(kHeader) + "\n";
  for (const auto& [key, ns] : times_) text += fmt::format("{}\t{}\n", ns, key);
  write_file_atomic(path, text);
}

std::optional<double> TimingCache::find(const std::string& key) const {
  const auto found = times_.find(key);
  if (found == times_.end()) return std::nullopt;
  return static_cast<double>(found->second) / 1e3;
}

double TimingCache::insert(const std::string& key, double us) {
  const auto ns = static_cast<int64_t>(std::llround(us * 1e3));
  times_[key] = ns;
  return static_cast<double>(ns) / 1e3;
}

}  // namespace tokamak::tune
