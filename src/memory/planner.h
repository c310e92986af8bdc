#pragma once
// Static memory planning: lifetimes to offsets in one arena.

#include <cstdint>
#include <vector>

namespace tokamak::memory {

inline constexpr int64_t kAlignment = 64;         // of arenas on the host
inline constexpr int64_t kDeviceAlignment = 256;  // of arenas on a GPU

// A buffer that must exist from step `first` to step `last`, both included.
struct Lifetime {
  int64_t size_bytes = 0;
  int first = 0;
  int last = 0;
};

struct Layout {
  std::vector<int64_t> offsets;  // one a lifetime, multiples of the alignment
  int64_t arena_bytes = 0;
  int64_t lower_bound_bytes = 0;  // the largest sum of (aligned) sizes alive at one step: no layout can be smaller
};

// Greedy by size with best-fit gaps (Pisarchyk and Lee, arXiv:2001.03288, section 5.2): largest buffers first, each into the smallest
// gap among the placed buffers that it overlaps in time. Tried in two orders (by size, and by the breadth of the steps), the smaller arena
// wins.
Layout plan(const std::vector<Lifetime>& lifetimes, int64_t alignment = kAlignment);

}  // namespace tokamak::memory
