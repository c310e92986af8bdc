#pragma once
// Type inference over graphs, by the OpDefs' `infer` functions.

#include "ir/graph.h"

namespace tokamak::ir {

// Types and known integers of one node's outputs from its inputs. Throws Error naming the node if the inputs do not fit. Values of
// subgraphs are not touched: importers and passes infer those when they build them.
void infer_node(Node& node);

// Recomputes types and known integers of every node, subgraphs first within each node. Throws Error naming the first node whose inputs do
// not fit.
void infer_types(Graph& graph);

}  // namespace tokamak::ir
