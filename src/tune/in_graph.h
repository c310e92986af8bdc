#pragma once
// Kernels chosen for how they run between their neighbours. A kernel that is the fastest alone need not be so in the graph: what the kernel
// before leaves in the caches, how an SM divides its memory between L1 and shared memory, and how early blocks of the next kernel find room
// decide too (benchmarks/results/gpu-h100, step-tactics.txt: up to 4 % of a step for one product).

#include <functional>

#include "tune/graph_clock.h"
#include "tune/timing_cache.h"

namespace tokamak::tune {

// `nodes`: all of the graph's that are tuned, at one size, in order. Exchanges each choice of weight for others that are about as fast
// alone, and keeps what makes the whole graph faster. Times of whole graphs are kept in the cache under `machine`: `clock` is asked for
// where one is missing; where it gives null everything stays as it is. Adds a note.
void choose_in_graph(std::span<const PlacedChoice> nodes, const std::string& machine, TimingCache& cache, ThreadPool& pool,
                     const std::function<std::unique_ptr<GraphClock>()>& clock, BuildReport& report);

}  // namespace tokamak::tune
