#include "cli/console.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace tokamak::cli {

using Clock = std::chrono::steady_clock;

ProgressBar::ProgressBar() : start_(Clock::now()), last_(start_), enabled_(isatty(STDERR_FILENO)) {}

ProgressBar::~ProgressBar() { clear(); }

void ProgressBar::update(const std::string& step, double fraction, double remaining_s) {
  const auto now = Clock::now();
  if (!enabled_ || now - start_ < std::chrono::seconds(1) || now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  shown_ = true;
  const int width = 30, done = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * width);
  const std::string left = remaining_s >= 0 ? fmt::format(", {:.0f} s left", remaining_s) : "";
  fmt::print(stderr, "\r[{:=>{}}{:{}}] {:3.0f} % {}{}\x1b[K", "", done, "", width - done, fraction * 100, step, left);
  std::fflush(stderr);
}

void ProgressBar::clear() {
  if (shown_) fmt::print(stderr, "\r\x1b[K");
  shown_ = false;
}

}  // namespace tokamak::cli
