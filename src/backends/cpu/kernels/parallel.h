#pragma once
// How kernels split their work.

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "backends/cpu/thread_pool.h"

namespace tokamak::cpu {

// Below about this many simple element operations a second thread costs more than it brings.
constexpr int64_t kParallelGrain = 16384;

// f(begin, end, worker) over [0, count), on the caller alone when the pool is null or `cost` (element operations an item) is small.
template <class F>
void parallel(ThreadPool* pool, int64_t count, int64_t cost, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kParallelGrain / std::max<int64_t>(cost, 1));
  if (count <= 0) return;
  if (pool == nullptr || count <= grain) return f(0, count, 0);
  // A few pieces a thread: enough to balance, few enough that handing out is free.
  pool->parallel_for(count, std::max(grain, count / (int64_t{4} * pool->width())), f);
}

// f(unit, following, worker) over [0, units), handed out in order. A thread knows the unit that it will get next (-1: none), so that it can
// prefetch across.
template <class F>
void parallel_units(ThreadPool* pool, int threads, int64_t units, const F& f) {
  std::atomic<int64_t> next{0};
  pool->parallel_for(std::min<int64_t>(threads, units), 1, [&](int64_t, int64_t, int worker) {
    for (int64_t unit = next.fetch_add(1), following; unit < units; unit = following) {
      following = next.fetch_add(1);
      f(unit, following < units ? following : -1, worker);
    }
  });
}

}  // namespace tokamak::cpu
