#pragma once
// Picks a kernel and a tactic for every node by timing the candidates, then packs weights for the choice.

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "builder/builder.h"
#include "runtime/bind.h"
#include "tune/timing_cache.h"

namespace tokamak::tune {

struct TunerOptions {
  int opt_level =
      3;  // 0: first candidate; 1: one tactic a kernel; 2 to 5: every tactic, with more time each (4: oneDNN kernels too; 5: `ref` too)
  std::vector<std::string> disabled_kernels;
  // Of an engine for a GPU: its kernels are the candidates, the host's where it has none. Timed on its device; without one nothing is
  // timed, the order of the lists decides.
  const cuda::Context* cuda = nullptr;
  std::function<void(double fraction)> progress;
};

// Fills Node::kernel, Node::tactic and replaces weights by packed ones. Nodes that the binding does not reach (after a data-dependent
// shape, inside subgraphs) keep no choice: the runtime picks the first kernel that accepts. Equal nodes (same op, attributes, shapes) are
// timed once. `more`: other sizes to tune for; a node that timing gives different kernels for gets a table of them
// (runtime/size_choices.h), unless one of them packs its weights.
void tune(ir::Graph& graph, const Binding& binding, ThreadPool& pool, TimingCache& cache, const TunerOptions& options, BuildReport& report,
          std::span<const Binding> more = {});

}  // namespace tokamak::tune
