#pragma once
// What flows into the products of a language model, measured on text that the model writes itself: no data is needed at build.

#include "quant/matrices.h"

namespace tokamak::quant {

// Second moments of the rows x that a product multiplies: the mean of x x^T.
struct Moments {
  int64_t k = 0;
  std::vector<float> mean;  // [k,k], symmetric
};

struct MomentOptions {
  int sequences = 8, length = 512;  // tokens to measure on
  int rounds = 4;                   // of rewriting: random tokens at first, each round samples every token anew from what stands before it
  uint64_t seed = 1;
};

struct MeasuredMoments {
  std::vector<Moments> inputs;
  std::vector<int> of_matrix;  // for each of constant_matrices(graph): index into inputs
};

// Whether the graph is a step graph of a language model (src/import/hf/decoder.h), which is what can be measured.
bool is_step_graph(const ir::Graph& graph);

// Runs the graph as it is; deterministic in the seed. Lengths are cut to the model's context.
MeasuredMoments measure_moments(const ir::Graph& graph, const MomentOptions& options, ThreadPool& pool);

}  // namespace tokamak::quant
