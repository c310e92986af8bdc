#pragma once
// Runs single nodes, or a whole graph, with the reference kernels: constant folding, and the tests' oracle.

#include <optional>
#include <vector>

#include "ir/graph.h"

namespace tokamak::passes {

// Outputs of `node` for concrete inputs (undefined where absent), or nullopt when no reference kernel takes it or its shapes depend on
// data. `bindings` gives values to the model's symbols. Throws Error when the inputs do not fit.
std::optional<std::vector<Tensor>> evaluate(const ir::Node& node, const std::vector<Tensor>& inputs,
                                            const ir::Dim::Bindings& bindings = {});

// Outputs of a graph without control flow, node by node. Throws Unsupported naming the node that cannot be evaluated.
std::vector<Tensor> evaluate(const ir::Graph& graph, const std::vector<Tensor>& inputs);

}  // namespace tokamak::passes
