#pragma once
// Block formats of GGUF tensors to weights of ours. Facts: ggml-common.h (block layouts) and ggml-quants.c (dequantize_row_*) of llama.cpp.

#include "import/hf/gguf.h"
#include "import/hf/weight.h"

namespace tokamak::hf {

// The tensor as a weight: views of F32, F16 and BF16 data that `owner` keeps alive; Q8_0 and Q4_0 matrices, with `keep_quantized`, as i8
// and i4 with a scale for each 32, the same numbers in another order; all else dequantized to `dense` (F32, F16, BF16).
Weight to_weight(const GgufTensor& tensor, std::string name, const std::shared_ptr<const void>& owner, bool keep_quantized, DType dense,
                 ThreadPool& pool);

}  // namespace tokamak::hf
