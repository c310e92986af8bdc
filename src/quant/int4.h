#pragma once
// 4-bit weights: symmetric, -8..7, one f16 scale a group, found by search.

#include "quant/int8.h"

namespace tokamak::quant {

// For each group, of a row of candidate scales around the one that maps the largest magnitude to -8, the one with the least squared error
// is taken, each candidate with the best scale for its own rounding (method: llama.cpp's make_qx_quants, ggml-quants.c). A scale may be
// negative. Undefined values when an element is not finite or K is odd.
Quantized quantize_int4(const ConstantMatrix& m, int64_t group_size, ThreadPool& pool);

// Every matmul with a constant matrix becomes a quantized_matmul: the head (matrices.h) in int8, others in int4; matrices with odd K in
// int8 too. Returns how many. Throws InvalidArgument unless group_size is 32, 64 or 128.
int weights_to_int4(ir::Graph& graph, int64_t group_size, ThreadPool& pool);

}  // namespace tokamak::quant
