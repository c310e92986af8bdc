#pragma once
// What a person at a terminal sees: the progress bar.

#include <chrono>
#include <string>

namespace tokamak::cli {

// A bar on standard error, shown only on a terminal and only once a second has passed; gone when destroyed.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  // `fraction` in 0..1; `remaining_s` negative when unknown.
  void update(const std::string& step, double fraction, double remaining_s = -1);
  void clear();

 private:
  std::chrono::steady_clock::time_point start_, last_;
  bool enabled_;
  bool shown_ = false;
};

}  // namespace tokamak::cli
