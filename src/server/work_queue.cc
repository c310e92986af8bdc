#include "server/work_queue.h"

#include <condition_variable>
#include <deque>
#include <mutex>

namespace tokamak::server {

struct WorkQueue::State {
  std::mutex mutex;
  std::condition_variable has_work;
  std::deque<std::function<void()>> tasks;
  bool is_stopping = false;

  void work() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock lock(mutex);
        has_work.wait(lock, [&] { return is_stopping || !tasks.empty(); });
        if (tasks.empty()) return;
        task = std::move(tasks.front());
        tasks.pop_front();
      }
      task();
    }
  }
};

WorkQueue::WorkQueue(int num_threads) : state_(std::make_shared<State>()) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([state = state_] { state->work(); });
}

WorkQueue::~WorkQueue() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->is_stopping = true;
  }
  state_->has_work.notify_all();
  for (std::thread& thread : threads_) {
    // The last owner may be a task.
    if (thread.get_id() == std::this_thread::get_id()) thread.detach();
    else thread.join();
  }
}

void WorkQueue::post(std::function<void()> task) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->tasks.push_back(std::move(task));
  }
  state_->has_work.notify_one();
}

}  // namespace tokamak::server
