#pragma once
// 4-bit weights: symmetric, -8..7, one f16 scale a group.

#include "quant/int8.h"
#include "quant/moments.h"

namespace tokamak::quant {

// How the error of one weight is made up for by those behind it in its row: the triangular factor of the inputs' second moments.
struct Feedback {
  std::vector<float> importance;  // [K] mean square of each input
  std::vector<float> factor;      // [K,K]: of weight i's error, the part that weight j > i takes over
};
// Moments of few rows are noisy: off-diagonal ones are shrunk, which also makes the matrix positive definite.
Feedback make_feedback(const Moments& moments, ThreadPool& pool);

// For each group, of a row of candidate scales around the one that maps the largest magnitude to -8, the one with the least squared error
// is taken, each candidate with the best scale for its own rounding (method: llama.cpp's make_qx_quants, ggml-quants.c). A scale may be
// negative. With `feedback`, the error is that of the product's output for the inputs that were measured: each weight is rounded after the
// errors of those before it have been carried over (method: GPTQ, arXiv:2210.17323, in the form of a back substitution). Undefined values
// when an element is not finite or K is odd.
Quantized quantize_int4(const ConstantMatrix& m, int64_t group_size, const Feedback* feedback, ThreadPool& pool);

// Every matmul with a constant matrix becomes a quantized_matmul: the head (matrices.h) in int8, others in int4; matrices with odd K in
// int8 too. `moments`: of this graph, or null. Returns how many. Throws InvalidArgument unless group_size is 32, 64 or 128.
int weights_to_int4(ir::Graph& graph, int64_t group_size, const MeasuredMoments* moments, ThreadPool& pool);

}  // namespace tokamak::quant
