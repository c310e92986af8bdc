#pragma once
// The precision that a build's options ask for, put into an optimized graph. Both return the name of what it came to ("int8", "fp16", ...)
// and say in the report's notes what changed and what stayed.

#include <optional>

#include "builder/builder.h"
#include "quant/ranges.h"

namespace tokamak {

// For the CPU: weights of matrix products change, everything else stays fp32.
const char* choose_weights(ir::Graph& graph, const BuildOptions& options, ThreadPool& pool, BuildReport& report);

// For a GPU: all values change. `shapes` are those to measure ranges with (empty: unknown); `ranges` receives what was measured, for fp16.
const char* choose_precision_for_gpu(ir::Graph& graph, const BuildOptions& options, const std::vector<Shape>& shapes, ThreadPool& pool,
                                     std::optional<quant::Ranges>& ranges, BuildReport& report);

}  // namespace tokamak
