#pragma once
// bfloat16 weights: matrix products read half the bytes and multiply in bf16 with float32 accumulation.

#include "quant/matrices.h"

namespace tokamak::quant {

// Stores every constant f32 or f16 matrix that a matmul multiplies by as bf16 (round to nearest even), in the graph and its subgraphs;
// activations and all other operators stay float32. Weights that hold values beyond bf16's range stay as they are. Returns how many matmuls
// multiply by bf16 then.
int weights_to_bf16(ir::Graph& graph, ThreadPool& pool);

}  // namespace tokamak::quant
