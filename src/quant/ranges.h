#pragma once
// How large the values of a model get: what 16-bit floats can hold is decided on it.

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backends/cpu/thread_pool.h"
#include "ir/graph.h"
#include "runtime/bind.h"

namespace tokamak::quant {

struct Ranges {
  // Largest finite magnitude of every float32 value of the main graph that was reached, graph inputs included.
  std::unordered_map<const ir::Value*, double> largest;
  std::vector<std::pair<std::string, double>> by_layer;  // the same of nodes, by their labels, in the order they ran
  std::vector<Tensor> inputs, outputs;                   // what the graph was given and what it gave
};

// Multiplications and additions of the products and convolutions that the binding reaches, in units of 1e9.
double gflop_of(const ir::Graph& graph, const Binding& binding);

// Runs the graph once on the CPU, as it is, with sample inputs of these shapes (sample_inputs.h). Throws Error naming the node that fails.
Ranges measure_ranges(const ir::Graph& graph, const std::vector<Shape>& shapes, ThreadPool& pool);

}  // namespace tokamak::quant
