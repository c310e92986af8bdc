#pragma once
// Times one node's candidates, where they run: on the host, or on the GPU.

#include <memory>
#include <string>
#include <vector>

#include "runtime/kernel.h"

namespace tokamak::tune {

struct Candidate {
  const KernelDef* def = nullptr;
  std::string tactic;
};

// How long one candidate may be timed: the first of the two limits that is reached ends it.
struct Budget {
  double us = 0;
  int runs = 0;
};
Budget budget_of(int opt_level);

class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  // Microseconds of one run: on the host the fastest of several, on a GPU the median of replays of many; gives up early on a candidate that
  // is well behind `best`.
  virtual double measure(const Candidate& candidate, Budget budget, double best) = 0;
};

// For kernels of Place::Host. Each run finds its constants as after `streamed_bytes` of others: not in the nearest caches, unless it is 0.
// `view` and `pool` must outlive it.
std::unique_ptr<Stopwatch> host_stopwatch(const NodeView& view, ThreadPool& pool, int64_t streamed_bytes);

// For kernels of Place::Device, on view.cuda's device: runs are replayed as a CUDA graph between two events, so that launches cost what
// they cost in a net, and take turns at copies of the constants that together outgrow the L2 cache.
std::unique_ptr<Stopwatch> device_stopwatch(const NodeView& view);

// The weights of `view` as this candidate stores them; undefined where they stay as they are.
std::vector<Tensor> pack_constants(const NodeView& view, const Candidate& candidate);

// Contents that no kernel trips over: floats of ordinary size, zero indices, true and false.
Tensor timing_tensor(DType dtype, const Shape& shape);
// timing_tensor for the inputs that are not constants (those are given as they are). Undefined where the node has no input.
std::vector<Tensor> timing_inputs(const NodeView& view);

}  // namespace tokamak::tune
