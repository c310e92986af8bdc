#include "server/step_limiter.h"

#include <utility>

namespace tokamak::server {

bool StepLimiter::acquire(std::function<bool()> resume) {
  const std::lock_guard lock(mutex_);
  if (num_taken_ < limit_ && waiting_.empty()) {
    ++num_taken_;
    return true;
  }
  waiting_.push_back(std::move(resume));
  return false;
}

void StepLimiter::release() {
  std::unique_lock lock(mutex_);
  --num_taken_;
  // A model that answers at once releases within resume(): the loop below goes on then, instead of one stack frame for each that waits.
  if (is_resuming_) return;
  is_resuming_ = true;
  while (!waiting_.empty() && num_taken_ < limit_) {
    ++num_taken_;
    std::function<bool()> resume = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    const bool is_wanted = resume();
    resume = nullptr;
    lock.lock();
    if (!is_wanted) --num_taken_;
  }
  is_resuming_ = false;
}

}  // namespace tokamak::server
