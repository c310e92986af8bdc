#pragma once
// Shapes to tune for when the user gave no profile.

#include <vector>

#include "runtime/bind.h"

namespace tokamak {

// Concrete shapes for the graph's inputs that satisfy its inference: leading symbols (batch) 1, others of a middling length; a small search
// over other lengths when those contradict each other (past + new = total). Empty when nothing fits.
std::vector<Shape> default_shapes(const ir::Graph& graph, int num_threads);

// Of the step graph of a language model (import/hf/decoder.h): steps to tune for, decoding for one and for several users and prompts of
// several lengths. Empty for other graphs.
std::vector<std::vector<Shape>> step_shapes(const ir::Graph& graph);

// The inputs of a decoding step of these shapes, each sequence three quarters through its blocks; undefined for the KV caches. Empty for
// other steps and graphs, and for steps of so many sequences that their caches may not fit.
std::vector<Tensor> whole_graph_inputs(const ir::Graph& graph, const std::vector<Shape>& shapes);

}  // namespace tokamak
