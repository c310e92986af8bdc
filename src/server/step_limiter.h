#pragma once
// max_inflight_requests of an ensemble: at most so many requests of one of its steps are with the step's model, over all requests of the
// ensemble. Those beyond wait in order of arrival and hold no thread. What a decoupled model sends meanwhile waits as tensors: it is not
// slowed down, but it does not flood the models behind it.

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

namespace tokamak::server {

// Thread-safe.
class StepLimiter {
 public:
  explicit StepLimiter(int64_t limit) : limit_(limit) {}

  // True: there is room, and the caller has it until release(). False: `resume` is called when there is, on a thread that calls release(),
  // and has it then; it returns whether it still wants it.
  bool acquire(std::function<bool()> resume);
  void release();

 private:
  const int64_t limit_;
  std::mutex mutex_;
  int64_t num_taken_ = 0;
  bool is_resuming_ = false;
  std::deque<std::function<bool()>> waiting_;  // there is room for none, unless is_resuming_
};

}  // namespace tokamak::server
