#pragma once
// One pool of fixed width, shared by all contexts of a process. The caller takes part: a pool of width n starts n-1 threads.

#include <cstdint>
#include <memory>
#include <type_traits>

namespace tokamak {

class ThreadPool {
 public:
  // Throws InvalidArgument unless 1 <= width <= 1024.
  explicit ThreadPool(int width);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int width() const { return width_; }

  // Calls f(begin, end, worker) over [0, count) split into pieces of at most `grain`, handed out in order to whoever is free; returns when
  // all are done. worker < width() is stable within one call, for per-thread scratch. Never allocates. When another thread is using the
  // pool, or from inside a task, runs on the caller alone (no oversubscription). f must not throw.
  template <class F>
  void parallel_for(int64_t count, int64_t grain, const F& f) {
    run(
        count, grain,
        [](const void* context, int64_t begin, int64_t end, int worker) { (*static_cast<const F*>(context))(begin, end, worker); }, &f);
  }

 private:
  using Function = void (*)(const void*, int64_t begin, int64_t end, int worker);
  void run(int64_t count, int64_t grain, Function function, const void* context);
  struct State;
  int width_;
  std::unique_ptr<State> state_;
};

// Hardware threads this process may use (affinity mask and cgroup quota considered).
int available_threads();

}  // namespace tokamak
