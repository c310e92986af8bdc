#pragma once
// The optimization passes in order. The list, with the reason for each place, is in pipeline.cc.

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "builder/builder.h"
#include "ir/graph.h"
#include "passes/pass.h"

namespace tokamak::passes {

struct PipelineOptions {
  std::vector<std::string> disabled;                  // names of passes to leave out; an unknown name is an error that lists them
  std::string dump_ir;                                // "after:<pass>", "before:<pass>" or "all"
  std::function<void(const std::string&)> dump_sink;  // receives the text; standard error when absent
  Precision precision = Precision::F32;
  bool is_gpu = false;  // some rewrites pay only there
};

// Runs every pass on the graph (and its subgraphs), verifies the graph after each, and appends to `report.passes` (one entry a pass, its
// runs added up) and `report.notes`. Throws InvalidArgument for an unknown pass name; Internal, naming the pass, when one breaks the graph.
void run_pipeline(ir::Graph& graph, const PipelineOptions& options, BuildReport& report);

// The same with the passes for GPUs only, which make what the CPU has no kernels for. After the choice of types.
void run_gpu_pipeline(ir::Graph& graph, const PipelineOptions& options, BuildReport& report);

// One step: its passes run in turn, again and again while they change something, at most `rounds` times.
struct Step {
  std::vector<Pass> passes;
  int rounds = 1;
};
const std::vector<Step>& pipeline();
const std::vector<Step>& gpu_pipeline();
// By name, of either; null when unknown.
const Pass* find_pass(std::string_view name);
// Runs single passes by name, in order and as for a GPU, as tests do.
void run_passes(ir::Graph& graph, std::span<const std::string> names);

}  // namespace tokamak::passes
