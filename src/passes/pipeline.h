#pragma once
// The optimization passes in order. The list, with the reason for each place, is in pipeline.cc.

#include <functional>
#include <string>
#include <vector>

#include "builder/builder.h"
#include "ir/graph.h"

namespace tokamak::passes {

struct PipelineOptions {
  std::vector<std::string> disabled;                        // names of passes to leave out; an unknown name is an error that lists them
  std::string dump_ir;                                      // "after:<pass>", "before:<pass>" or "all"
  std::function<void(const std::string&)> dump_sink;        // receives the text; standard error when absent
  Precision precision = Precision::F32;
};

// Runs every pass on the graph (and its subgraphs), verifies the graph after each, and appends to `report.passes` and `report.notes`.
void run_pipeline(ir::Graph& graph, const PipelineOptions& options, BuildReport& report);

}  // namespace tokamak::passes
