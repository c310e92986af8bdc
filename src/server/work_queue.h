#pragma once
// A few threads for what a server thread must not do itself: compile a grammar, tokenize a book, let go of a model.

#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace tokamak::server {

class WorkQueue {
 public:
  explicit WorkQueue(int num_threads);
  // Waits for what was posted; when called from a task, for all but that.
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // Tasks begin in order and must not throw.
  void post(std::function<void()> task);

 private:
  struct State;
  std::shared_ptr<State> state_;
  std::vector<std::thread> threads_;
};

}  // namespace tokamak::server
