#pragma once
// What the tuner knows about all nodes with one signature.

#include <span>
#include <string>
#include <vector>

#include "builder/builder.h"
#include "tune/stopwatch.h"

namespace tokamak::tune {

struct Choice {
  std::string signature;
  NodeView view;  // of the first of them
  std::vector<Candidate> candidates;
  std::vector<double> us;  // of each candidate, alone; empty when they were not timed
  size_t chosen = 0;
  TacticReport report;

  const Candidate& candidate() const { return candidates[chosen]; }
};

// A node of the graph at one size.
struct PlacedChoice {
  ir::Node* node = nullptr;
  Choice* choice = nullptr;
};

// The GPU's code of everything that will be timed, compiled by all threads at once: the compiler takes longer than the timing.
void compile_candidates(std::span<const std::pair<const NodeView*, const Candidate*>> all, ThreadPool& pool);

}  // namespace tokamak::tune
