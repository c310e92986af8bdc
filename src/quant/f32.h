#pragma once
// float32 weights: checkpoints store 16 bits, and a product that reads those multiplies in them.

#include "quant/matrices.h"

namespace tokamak::quant {

// Stores every constant f16 or bf16 matrix that an f32 matmul multiplies by as f32, exactly. Returns how many matmuls changed.
int weights_to_f32(ir::Graph& graph, ThreadPool& pool);

}  // namespace tokamak::quant
