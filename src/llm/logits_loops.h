#pragma once
// Bodies of LogitsFunctions for one instruction set; included by logits_avx512.cc and logits_avx2.cc only.

#include "backends/cpu/simd_math.h"
#include "llm/logits.h"

namespace tokamak::llm {
namespace {

using namespace tokamak::cpu;

constexpr float kInf = __builtin_inff();

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline F load_part(const float* p, int64_t n, F rest) { return n >= kLanes ? load(p) : keep_first(load_n(p, n), n, rest); }

bool block_max(float* maxima, const float* x, int64_t n) {
  const F inf = set1(kInf);
  bool bad = false;
  for (int64_t begin = 0; begin < n; begin += kMaxBlock) {
    const int64_t end = least(n, begin + kMaxBlock);
    F top = set1(-kInf);
    F seen = top;  // turns NaN or +inf when one passes
    for (int64_t i = begin; i < end; i += kLanes) {
      const F v = load_part(x + i, end - i, set1(-kInf));
      seen = max(seen, v);
      top = max_second(v, top);
    }
    bad |= any(is_nan(seen) | eq(seen, inf));
    *maxima++ = largest(top);
  }
  return !bad;
}

double exp_sum(const float* x, int64_t n, float shift) {
  const F s = set1(shift);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t end = least(n, begin + kSumBlock);
    F sum0 = set1(0), sum1 = set1(0);
    int64_t i = begin;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      sum0 = sum0 + exp(load(x + i) - s);
      sum1 = sum1 + exp(load(x + i + kLanes) - s);
    }
    for (; i < end; i += kLanes) sum0 = sum0 + exp(load_part(x + i, end - i, set1(-kInf)) - s);
    total += sum(sum0 + sum1);
  }
  return total;
}

double exp_weights(float* w, double* sums, const float* x, int64_t n, float shift, float scale) {
  const F s = set1(shift), f = set1(scale);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t end = least(n, begin + kSumBlock);
    F sum0 = set1(0);
    for (int64_t i = begin; i < end; i += kLanes) {
      const F e = exp((load_part(x + i, end - i, set1(-kInf)) - s) * f);
      if (end - i >= kLanes) store(w + i, e);
      else store_n(w + i, e, end - i);
      sum0 = sum0 + e;
    }
    total += * sums++ = sum(sum0);
  }
  return total;
}

int64_t collect(int32_t* ids, const float* x, int64_t n, float threshold) {
  const F t = set1(threshold);
  int64_t count = 0, i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    const F top = max_second(max_second(load(x + i), load(x + i + kLanes)), max_second(load(x + i + 2 * kLanes), load(x + i + 3 * kLanes)));
    if (!any(le(t, top))) continue;
    for (int64_t j = i; j < i + 4 * kLanes; ++j) {
      ids[count] = static_cast<int32_t>(j);
      count += x[j] >= threshold;
    }
  }
  for (; i < n; ++i) {
    ids[count] = static_cast<int32_t>(i);
    count += x[i] >= threshold;
  }
  return count;
}

constexpr LogitsFunctions kLogitsFunctions = {block_max, exp_sum, exp_weights, collect};

}  // namespace
}  // namespace tokamak::llm
