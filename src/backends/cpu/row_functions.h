#pragma once
// Row-wise float32 loops by instruction set: softmax, layer and RMS normalisation, and reductions.

#include <cstdint>

namespace tokamak::cpu {

enum class ReduceOp : uint8_t { Sum, Mean, Max, Min, Prod };

struct RowFunctions {
  // y = softmax(x) or log softmax over n contiguous floats; y may be x.
  void (*softmax)(float* y, const float* x, int64_t n);
  void (*log_softmax)(float* y, const float* x, int64_t n);
  // y = (s - mean) * inv_std * scale + bias with s = x + residual. scale, bias, residual and sum_out may be null; sum_out receives s. mean
  // and inv_std receive one value each unless null. y may be x, sum_out may be x or residual, but y and sum_out differ.
  void (*layer_norm)(float* y, float* sum_out, const float* x, const float* residual, const float* scale, const float* bias, int64_t n,
                     float epsilon, float* mean, float* inv_std);
  // y = s / sqrt(mean(s^2) + epsilon) * scale.
  void (*rms_norm)(float* y, float* sum_out, const float* x, const float* residual, const float* scale, int64_t n, float epsilon);
  // Reduces n contiguous floats.
  float (*reduce)(ReduceOp op, const float* x, int64_t n);
  // y[c] = reduction over r of x[r * stride + c], c < cols.
  void (*reduce_rows)(ReduceOp op, float* y, const float* x, int64_t rows, int64_t stride, int64_t cols);
};

const RowFunctions& row_functions_avx512();
const RowFunctions& row_functions_avx2();

}  // namespace tokamak::cpu
