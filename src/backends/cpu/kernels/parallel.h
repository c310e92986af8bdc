#pragma once
// How kernels split their work.

#include <algorithm>
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

}  // namespace tokamak::cpu
