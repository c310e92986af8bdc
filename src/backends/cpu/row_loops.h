#pragma once
// Bodies of RowFunctions for one instruction set; included by row_functions_avx512.cc and row_functions_avx2.cc only.

#include "backends/cpu/row_functions.h"
#include "backends/cpu/simd_math.h"

namespace tokamak::cpu {
namespace {

struct SumOf {
  static float neutral() { return 0; }
  static F apply(F a, F b) { return a + b; }
  static float across(F a) { return sum(a); }
};
struct ProductOf {
  static float neutral() { return 1; }
  static F apply(F a, F b) { return a * b; }
  static float across(F a) {
    float lanes[kLanes], product = 1;
    store(lanes, a);
    for (float lane : lanes) product *= lane;
    return product;
  }
};
// NaN wins, as in NumPy: `largest` alone would drop it.
struct MaxOf {
  static float neutral() { return -__builtin_inff(); }
  static F apply(F a, F b) { return max(a, b); }
  static float across(F a) { return any(is_nan(a)) ? __builtin_nanf("") : largest(a); }
};
struct MinOf {
  static float neutral() { return __builtin_inff(); }
  static F apply(F a, F b) { return min(a, b); }
  static float across(F a) { return any(is_nan(a)) ? __builtin_nanf("") : smallest(a); }
};

// Reduces value(i, n), the vector of elements i.. of which n count.
template <class Op, class Value>
inline float reduce_values(int64_t n, const Value& value) {
  F r0 = set1(Op::neutral()), r1 = r0, r2 = r0, r3 = r0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    r0 = Op::apply(r0, value(i, kLanes)), r1 = Op::apply(r1, value(i + kLanes, kLanes));
    r2 = Op::apply(r2, value(i + 2 * kLanes, kLanes)), r3 = Op::apply(r3, value(i + 3 * kLanes, kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) r0 = Op::apply(r0, value(i, kLanes));
  if (i < n) r1 = Op::apply(r1, keep_first(value(i, n - i), n - i, set1(Op::neutral())));
  return Op::across(Op::apply(Op::apply(r0, r1), Op::apply(r2, r3)));
}

inline F load_part(const float* p, int64_t n) { return n == kLanes ? load(p) : load_n(p, n); }
inline void store_part(float* p, F a, int64_t n) {
  if (n == kLanes) store(p, a);
  else store_n(p, a, n);
}
template <class Body>
inline void each_vector(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, n - i);
}

template <class Op>
float reduce_row(const float* x, int64_t n) {
  return reduce_values<Op>(n, [&](int64_t i, int64_t k) { return load_part(x + i, k); });
}

void softmax_row(float* y, const float* x, int64_t n) {
  const float top = reduce_row<MaxOf>(x, n);
  const F shift = set1(top);
  const float total = reduce_values<SumOf>(n, [&](int64_t i, int64_t k) {
    const F e = exp(load_part(x + i, k) - shift);
    store_part(y + i, e, k);
    return e;
  });
  const F scale = set1(1 / total);
  each_vector(n, [&](int64_t i, int64_t k) { store_part(y + i, load_part(y + i, k) * scale, k); });
}

void log_softmax_row(float* y, const float* x, int64_t n) {
  const F shift = set1(reduce_row<MaxOf>(x, n));
  const F total = set1(reduce_values<SumOf>(n, [&](int64_t i, int64_t k) { return exp(load_part(x + i, k) - shift); }));
  const F log_total = log(total);
  each_vector(n, [&](int64_t i, int64_t k) { store_part(y + i, load_part(x + i, k) - shift - log_total, k); });
}

// Two passes over the sum (kept in y or sum_out, in L1): one for the mean, one for the centred squares, so no cancellation.
void layer_norm_row(float* y, float* sum_out, const float* x, const float* residual, const float* scale, const float* bias, int64_t n,
                    float epsilon, float* mean_out, float* inv_std_out) {
  const float* s = x;
  float* keep = sum_out != nullptr ? sum_out : y;
  float total;
  if (residual != nullptr) {
    total = reduce_values<SumOf>(n, [&](int64_t i, int64_t k) {
      const F v = load_part(x + i, k) + load_part(residual + i, k);
      store_part(keep + i, v, k);
      return v;
    });
    s = keep;
  } else {
    total = reduce_row<SumOf>(x, n);
  }
  const float mean = total / static_cast<float>(n);
  const F m = set1(mean);
  const float squares = reduce_values<SumOf>(n, [&](int64_t i, int64_t k) {
    const F d = load_part(s + i, k) - m;
    return d * d;
  });
  const float inv_std = 1 / __builtin_sqrtf(squares / static_cast<float>(n) + epsilon);
  const F inv = set1(inv_std);
  each_vector(n, [&](int64_t i, int64_t k) {
    F v = (load_part(s + i, k) - m) * inv;
    if (scale != nullptr) v = v * load_part(scale + i, k);
    if (bias != nullptr) v = v + load_part(bias + i, k);
    store_part(y + i, v, k);
  });
  if (mean_out != nullptr) *mean_out = mean;
  if (inv_std_out != nullptr) *inv_std_out = inv_std;
}

void rms_norm_row(float* y, float* sum_out, const float* x, const float* residual, const float* scale, int64_t n, float epsilon) {
  const float* s = x;
  float* keep = sum_out != nullptr ? sum_out : y;
  const float squares = reduce_values<SumOf>(n, [&](int64_t i, int64_t k) {
    F v = load_part(x + i, k);
    if (residual != nullptr) {
      v = v + load_part(residual + i, k);
      store_part(keep + i, v, k);
    }
    return v * v;
  });
  if (residual != nullptr) s = keep;
  const F inv = set1(1 / __builtin_sqrtf(squares / static_cast<float>(n) + epsilon));
  each_vector(n, [&](int64_t i, int64_t k) {
    F v = load_part(s + i, k) * inv;
    if (scale != nullptr) v = v * load_part(scale + i, k);
    store_part(y + i, v, k);
  });
}

float reduce(ReduceOp op, const float* x, int64_t n) {
  switch (op) {
    case ReduceOp::Sum: return reduce_row<SumOf>(x, n);
    case ReduceOp::Mean: return reduce_row<SumOf>(x, n) / static_cast<float>(n);
    case ReduceOp::Max: return reduce_row<MaxOf>(x, n);
    case ReduceOp::Min: return reduce_row<MinOf>(x, n);
    case ReduceOp::Prod: return reduce_row<ProductOf>(x, n);
  }
  return 0;
}

// Four vectors of columns at a time stay in registers while the rows pass by.
template <class Op>
void reduce_columns(float* y, const float* x, int64_t rows, int64_t stride, int64_t cols, float factor) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= cols; c += 4 * kLanes) {
    F r0 = set1(Op::neutral()), r1 = r0, r2 = r0, r3 = r0;
    const float* p = x + c;
    for (int64_t r = 0; r < rows; ++r, p += stride) {
      r0 = Op::apply(r0, load(p)), r1 = Op::apply(r1, load(p + kLanes));
      r2 = Op::apply(r2, load(p + 2 * kLanes)), r3 = Op::apply(r3, load(p + 3 * kLanes));
    }
    const F f = set1(factor);
    store(y + c, r0 * f), store(y + c + kLanes, r1 * f), store(y + c + 2 * kLanes, r2 * f), store(y + c + 3 * kLanes, r3 * f);
  }
  for (; c < cols; c += kLanes) {
    const int64_t k = cols - c < kLanes ? cols - c : kLanes;
    F total = set1(Op::neutral());
    for (int64_t r = 0; r < rows; ++r) total = Op::apply(total, load_part(x + r * stride + c, k));
    store_part(y + c, total * set1(factor), k);
  }
}

void reduce_rows(ReduceOp op, float* y, const float* x, int64_t rows, int64_t stride, int64_t cols) {
  switch (op) {
    case ReduceOp::Sum: return reduce_columns<SumOf>(y, x, rows, stride, cols, 1);
    case ReduceOp::Mean: return reduce_columns<SumOf>(y, x, rows, stride, cols, 1.0f / static_cast<float>(rows));
    case ReduceOp::Max: return reduce_columns<MaxOf>(y, x, rows, stride, cols, 1);
    case ReduceOp::Min: return reduce_columns<MinOf>(y, x, rows, stride, cols, 1);
    case ReduceOp::Prod: return reduce_columns<ProductOf>(y, x, rows, stride, cols, 1);
  }
}

constexpr RowFunctions kRowFunctions = {softmax_row, log_softmax_row, layer_norm_row, rms_norm_row, reduce, reduce_rows};

}  // namespace
}  // namespace tokamak::cpu
