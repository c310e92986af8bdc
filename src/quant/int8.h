#pragma once
// 8-bit weights: symmetric, -127..127, one scale an output channel or a group of one.

#include "quant/matrices.h"

namespace tokamak::quant {

// Groups of K that share a scale on the CPU unless a caller says otherwise. Kernels there round activations by the same groups, and one
// scale a row of activations costs most of the accuracy: on llama2-docs-27m a scale a channel raises perplexity by 0.46 %, groups of 128 by
// 0.19 %.
inline constexpr int kInt8GroupSize = 128;

struct Quantized {
  Tensor values;           // i8 or i4 [N,K]
  Tensor scale;            // f32 or f16 [N, ceil(K/group_size)]
  int64_t group_size = 0;  // along K
};

// The largest magnitude of each group becomes 127. `group_size` 0: K, scales in f32; else scales in f16 where they fit it. Undefined values
// when an element is not finite.
Quantized quantize_int8(const ConstantMatrix& m, int64_t group_size, ThreadPool& pool);

// Every matmul with a constant matrix becomes a quantized_matmul. Returns how many; matmuls that scale or transpose a stay, as do those by
// matrices with NaN or infinity.
int weights_to_int8(ir::Graph& graph, int64_t group_size, ThreadPool& pool);

// Whether the products of the matrix can be quantized_matmuls.
bool is_quantizable(const ConstantMatrix& m);
// Whether scales of which the largest is `largest` keep enough digits in f16.
bool fits_half_scales(float largest);
Tensor to_half(const Tensor& scale);

}  // namespace tokamak::quant
