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

// Input shapes to tune for.
struct TuningPoint {
  Binding binding;
  // Contents of the graph's inputs for a run of the whole graph on a GPU, with which kernels are chosen at opt_level 3 and above
  // (in_graph.h), undefined where any will do; empty: kernels are chosen alone.
  std::vector<Tensor> inputs;
};

// Fills Node::kernel, Node::tactic and replaces weights by packed ones. Nodes that the first point's binding does not reach (after a
// data-dependent shape, inside subgraphs) keep no choice: the runtime picks the first kernel that accepts. Equal nodes (same op,
// attributes, shapes) are timed once. Of several points, a node that timing gives different kernels for gets a table of them
// (runtime/size_choices.h), unless one of them packs its weights.
void tune(ir::Graph& graph, std::span<const TuningPoint> points, ThreadPool& pool, TimingCache& cache, const TunerOptions& options,
          BuildReport& report);

}  // namespace tokamak::tune
