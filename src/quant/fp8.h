#pragma once
// 8-bit floats (E4M3) as weights: as many bytes as int8, with the spread of magnitudes that tensor cores multiply directly.

#include "quant/matrices.h"

namespace tokamak::quant {

// Makes every product with a constant matrix a quantized_matmul with f8e4m3 weights and one f32 scale a channel (largest magnitude / 448).
// Matrices with NaN or infinity stay. Returns how many products changed.
int weights_to_fp8(ir::Graph& graph, ThreadPool& pool);

// Nearest E4M3 code, ties to even, of a value of at most 448 in magnitude; beyond, the largest finite one.
uint8_t to_e4m3(float x);

}  // namespace tokamak::quant
