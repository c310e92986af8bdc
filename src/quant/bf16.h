#pragma once
// bfloat16 weights: matrix products read half the bytes and multiply in bf16 with float32 accumulation.

#include "ir/graph.h"

namespace tokamak::quant {

// Stores every constant float32 matrix that a matmul multiplies by as bf16 (round to nearest even), in the graph and its subgraphs;
// activations and all other operators stay float32. Weights that hold values beyond bf16's range stay float32. Returns how many matmuls
// changed.
int weights_to_bf16(ir::Graph& graph);

}  // namespace tokamak::quant
