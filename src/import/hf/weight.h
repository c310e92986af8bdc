#pragma once
// A matrix or vector of a checkpoint, as stored: floats, or small integers with a scale for each group of a row.

#include <string>
#include <vector>

#include "backends/cpu/thread_pool.h"
#include "base/tensor.h"

namespace tokamak::hf {

struct Weight {
  std::string name;
  Tensor data;             // f32, f16, bf16; or i8, i4 [N,K] (i4: two a byte, low nibble first) with `scale`
  Tensor scale;            // f16 [N, K/group_size]; undefined: `data` is dense
  int64_t group_size = 0;  // along K

  bool is_quantized() const { return scale.defined(); }
};

// Throws Corrupt naming the weight when an element is NaN or infinite.
void check_finite(const Weight& weight, ThreadPool& pool);

// The same values as floats of `dtype` (F32, F16, BF16), rounded to nearest; `weight.data` itself when it is that already. Throws Corrupt
// naming the weight when a finite value leaves the range of `dtype`.
Tensor to_dense(const Weight& weight, DType dtype, ThreadPool& pool);
// A vector or small matrix as f32.
std::vector<float> to_floats(const Weight& weight);

// Rows [begin, end): a view.
Weight slice_rows(const Weight& weight, int64_t begin, int64_t end, std::string name);
// Columns [begin, end), copied. Throws Unsupported naming the weight when that cuts a group or a byte of a quantized one.
Weight slice_columns(const Weight& weight, int64_t begin, int64_t end);
// All rows of all parts, which have equal K. Parts that are stored in different ways become dense, in `dense_dtype` unless all are floats
// of one dtype.
Weight concat_rows(const std::vector<Weight>& parts, DType dense_dtype, std::string name, ThreadPool& pool);
// Row i of the result is row source[i].
Weight select_rows(const Weight& weight, const std::vector<int64_t>& source);

}  // namespace tokamak::hf
