#include "memory/planner.h"

#include <algorithm>
#include <numeric>

namespace tokamak::memory {
namespace {

int64_t round_up(int64_t size, int64_t alignment) { return (size + alignment - 1) / alignment * alignment; }

// Places the buffers in `order`; returns the arena size.
int64_t place(const std::vector<Lifetime>& lifetimes, int64_t alignment, const std::vector<int>& order, std::vector<int64_t>& offsets) {
  const auto aligned = [alignment](int64_t size) { return round_up(size, alignment); };
  offsets.assign(lifetimes.size(), 0);
  std::vector<int> placed;  // kept sorted by offset
  int64_t arena = 0;
  for (int index : order) {
    const Lifetime& wanted = lifetimes[index];
    const int64_t size = aligned(wanted.size_bytes);
    int64_t best_offset = -1, best_gap = INT64_MAX, end = 0;
    for (int other : placed) {
      if (lifetimes[other].last < wanted.first || lifetimes[other].first > wanted.last) continue;
      const int64_t gap = offsets[other] - end;
      if (gap >= size && gap < best_gap) best_gap = gap, best_offset = end;
      end = std::max(end, offsets[other] + aligned(lifetimes[other].size_bytes));
    }
    offsets[index] = best_offset >= 0 ? best_offset : end;
    arena = std::max(arena, offsets[index] + size);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), index, [&](int a, int b) { return offsets[a] < offsets[b]; }), index);
  }
  return arena;
}

}  // namespace

Layout plan(const std::vector<Lifetime>& lifetimes, int64_t alignment) {
  const auto aligned = [alignment](int64_t size) { return round_up(size, alignment); };
  Layout layout;
  int steps = 0;
  for (const Lifetime& l : lifetimes) steps = std::max(steps, l.last + 1);
  std::vector<int64_t> breadth(static_cast<size_t>(steps) + 1, 0);
  for (const Lifetime& l : lifetimes) {
    breadth[l.first] += aligned(l.size_bytes);
    breadth[l.last + 1] -= aligned(l.size_bytes);
  }
  std::partial_sum(breadth.begin(), breadth.end(), breadth.begin());
  layout.lower_bound_bytes = *std::max_element(breadth.begin(), breadth.end());

  std::vector<int> order(lifetimes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return lifetimes[a].size_bytes > lifetimes[b].size_bytes; });
  layout.arena_bytes = place(lifetimes, alignment, order, layout.offsets);
  if (layout.arena_bytes == layout.lower_bound_bytes) return layout;

  // By breadth: the buffers of the fullest step first, so that the peak itself packs tightly.
  std::vector<int64_t> widest(lifetimes.size(), 0);
  for (size_t i = 0; i < lifetimes.size(); ++i)
    for (int s = lifetimes[i].first; s <= lifetimes[i].last; ++s) widest[i] = std::max(widest[i], breadth[s]);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return widest[a] > widest[b]; });
  std::vector<int64_t> offsets;
  const int64_t arena = place(lifetimes, alignment, order, offsets);
  if (arena < layout.arena_bytes) {
    layout.arena_bytes = arena;
    layout.offsets = std::move(offsets);
  }
  return layout;
}

}  // namespace tokamak::memory
