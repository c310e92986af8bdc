#pragma once
// Attention for one instruction set; included by attention_functions_avx512.cc and attention_functions_avx2.cc only.
//
// Lanes are queries. The queries of a tile are transposed once, keys and values are read where they lie and broadcast, so nothing of K or V
// is packed, and the running maximum and sum of the online softmax (Milakov and Gimelshein, arXiv:1805.02867; tiling as in FlashAttention,
// arXiv:2205.14135) are plain vertical operations without a shuffle. Scores live for one block of keys, in L1.

#include "backends/cpu/attention_functions.h"
#include "backends/cpu/simd_math.h"

namespace tokamak::cpu {
namespace {

constexpr int64_t kVectors = 2;  // of queries in a tile
constexpr int64_t kQueries = kVectors * kLanes;
constexpr int64_t kKeys = 96;                         // a block of keys: scores take 12 KiB
constexpr int kRegisterRows = kLanes == 16 ? 12 : 6;  // rows of the register tile: 24 of 32, or 12 of 16 accumulators

inline F minus_inf() { return set1(-__builtin_inff()); }

// s[r][c] = sum_d k[r][d] * qt[d][c] for kRows keys.
template <int kRows, int kCols>
inline void score_rows(const float* qt, const float* k, int64_t k_row, int64_t depth, float* s) {
  F acc[kRows][kCols];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) acc[r][c] = zero();
  for (int64_t d = 0; d < depth; ++d) {
    F q[kCols];
    for (int c = 0; c < kCols; ++c) q[c] = load(qt + d * kQueries + c * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const F x = set1(k[r * k_row + d]);
      for (int c = 0; c < kCols; ++c) acc[r][c] = fma(x, q[c], acc[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) store(s + r * kQueries + c * kLanes, acc[r][c]);
}

// o[r][c] = o[r][c] * alpha[c] + sum_j v[j][r] * p[j][c] for kRows columns of V.
template <int kRows, int kCols>
inline void value_rows(const float* p, const float* v, int64_t v_row, int64_t keys, const float* alpha, float* o) {
  F acc[kRows][kCols];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) acc[r][c] = load(o + r * kQueries + c * kLanes) * load(alpha + c * kLanes);
  for (int64_t j = 0; j < keys; ++j) {
    F w[kCols];
    for (int c = 0; c < kCols; ++c) w[c] = load(p + j * kQueries + c * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const F x = set1(v[j * v_row + r]);
      for (int c = 0; c < kCols; ++c) acc[r][c] = fma(x, w[c], acc[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) store(o + r * kQueries + c * kLanes, acc[r][c]);
}

// Where the mask of (batch, head) starts, in elements.
inline int64_t mask_offset(const AttentionProblem& a, int64_t batch, int64_t head) { return batch * a.mask_batch + head * a.mask_head; }
// What mask element `at` adds to a score.
inline float mask_value(const AttentionProblem& a, int64_t at) {
  if (!a.mask_is_bool) return static_cast<const float*>(a.mask)[at];
  return static_cast<const uint8_t*>(a.mask)[at] ? 0.0f : -__builtin_inff();
}

// Adds the mask to scores of keys [j0, j0 + keys) and queries [first, first + count). Beyond `count` lanes hold scores nobody reads.
inline void add_mask(const AttentionProblem& a, int64_t offset, int64_t j0, int64_t keys, int64_t first, int64_t count, float* s) {
  for (int64_t j = 0; j < keys; ++j) {
    float* const row = s + j * kQueries;
    const int64_t at = offset + (j0 + j) * a.mask_col + first * a.mask_row;
    if (a.mask_row == 0) {
      const F m = set1(mask_value(a, at));
      for (int64_t c = 0; c < kQueries; c += kLanes) store(row + c, load(row + c) + m);
    } else {
      for (int64_t i = 0; i < count; ++i) row[i] += mask_value(a, at + i * a.mask_row);
    }
  }
}

template <int kCols>
void tile_columns(const AttentionProblem& a, int64_t batch, int64_t head, int64_t first, int64_t count, float* workspace) {
  float* const qt = workspace;                    // [depth][kQueries]
  float* const o = qt + a.depth * kQueries;       // [value_depth][kQueries]
  float* const s = o + a.value_depth * kQueries;  // [kKeys][kQueries]
  float* const alpha = s + kKeys * kQueries;      // [kQueries]
  const int64_t kv_head = head / a.group;
  const float* const q = a.q + batch * a.q_batch + head * a.q_head + first * a.q_row;
  const float* const k = a.k + batch * a.k_batch + kv_head * a.k_head;
  const float* const v = a.v + batch * a.v_batch + kv_head * a.v_head;

  for (int64_t d = 0; d < a.depth; ++d)
    for (int64_t i = 0; i < kCols * kLanes; ++i) qt[d * kQueries + i] = i < count ? q[i * a.q_row + d] * a.scale : 0;
  for (int64_t i = 0; i < a.value_depth * kQueries; ++i) o[i] = 0;
  F top[kCols], total[kCols], lane[kCols];
  for (int c = 0; c < kCols; ++c) {
    float index[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) index[i] = static_cast<float>(c * kLanes + i);
    top[c] = minus_inf(), total[c] = zero(), lane[c] = load(index);
  }

  const int64_t first_limit = first + a.keys - a.queries;  // the last key that query `first` sees
  int64_t end = a.keys;
  if (a.causal && first_limit + count < end) end = first_limit + count;
  for (int64_t j0 = 0; j0 < end; j0 += kKeys) {
    const int64_t keys = end - j0 < kKeys ? end - j0 : kKeys;
    int64_t j = 0;
    for (; j + kRegisterRows <= keys; j += kRegisterRows)
      score_rows<kRegisterRows, kCols>(qt, k + (j0 + j) * a.k_row, a.k_row, a.depth, s + j * kQueries);
    for (; j + 4 <= keys; j += 4) score_rows<4, kCols>(qt, k + (j0 + j) * a.k_row, a.k_row, a.depth, s + j * kQueries);
    for (; j < keys; ++j) score_rows<1, kCols>(qt, k + (j0 + j) * a.k_row, a.k_row, a.depth, s + j * kQueries);

    if (a.softcap > 0) {
      const F cap = set1(a.softcap), inverse = set1(1 / a.softcap);
      for (int64_t i = 0; i < keys; ++i)
        for (int c = 0; c < kCols; ++c) {
          float* const at = s + i * kQueries + c * kLanes;
          store(at, cap * tanh(load(at) * inverse));
        }
    }
    if (a.mask != nullptr) add_mask(a, mask_offset(a, batch, head), j0, keys, first, count, s);
    if (a.causal && j0 + keys - 1 > first_limit) {
      for (int64_t i = 0; i < keys; ++i) {
        const F least = set1(static_cast<float>(j0 + i - first_limit));  // the first lane that sees this key
        for (int c = 0; c < kCols; ++c) {
          float* const at = s + i * kQueries + c * kLanes;
          store(at, select(le(least, lane[c]), load(at), minus_inf()));
        }
      }
    }

    for (int c = 0; c < kCols; ++c) {
      float* const column = s + c * kLanes;
      F high = top[c];
      for (int64_t i = 0; i < keys; ++i) high = max_second(high, load(column + i * kQueries));
      // A query that has seen no key yet keeps -inf as its maximum; subtracting 0 then gives exp(-inf) = 0 and not NaN.
      const F shift = select(eq(high, minus_inf()), zero(), high);
      const F factor = exp_negative(top[c] - shift);
      F sum0 = zero(), sum1 = zero();
      int64_t i = 0;
      for (; i + 2 <= keys; i += 2) {
        const F p0 = exp_negative(load(column + i * kQueries) - shift), p1 = exp_negative(load(column + (i + 1) * kQueries) - shift);
        store(column + i * kQueries, p0), store(column + (i + 1) * kQueries, p1);
        sum0 = sum0 + p0, sum1 = sum1 + p1;
      }
      if (i < keys) {
        const F p = exp_negative(load(column + i * kQueries) - shift);
        store(column + i * kQueries, p);
        sum0 = sum0 + p;
      }
      total[c] = fma(total[c], factor, sum0 + sum1);
      top[c] = high;
      store(alpha + c * kLanes, factor);
    }

    int64_t r = 0;
    for (; r + kRegisterRows <= a.value_depth; r += kRegisterRows)
      value_rows<kRegisterRows, kCols>(s, v + j0 * a.v_row + r, a.v_row, keys, alpha, o + r * kQueries);
    for (; r + 4 <= a.value_depth; r += 4) value_rows<4, kCols>(s, v + j0 * a.v_row + r, a.v_row, keys, alpha, o + r * kQueries);
    for (; r < a.value_depth; ++r) value_rows<1, kCols>(s, v + j0 * a.v_row + r, a.v_row, keys, alpha, o + r * kQueries);
  }

  for (int c = 0; c < kCols; ++c) store(alpha + c * kLanes, select(eq(total[c], zero()), zero(), set1(1) / total[c]));
  float* const out = a.out + batch * a.out_batch + head * a.out_head + first * a.out_row;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t d = 0; d < a.value_depth; ++d) out[i * a.out_row + d] = o[d * kQueries + i] * alpha[i];
}

void tile(const AttentionProblem& a, int64_t batch, int64_t head, int64_t first, int64_t count, float* workspace) {
  if (count <= kLanes) tile_columns<1>(a, batch, head, first, count, workspace);
  else tile_columns<2>(a, batch, head, first, count, workspace);
}

inline F load_part(const float* p, int64_t n) { return n >= kLanes ? load(p) : load_n(p, n); }

void single(const AttentionProblem& a, int64_t batch, int64_t head, int64_t query, float* s) {
  const int64_t kv_head = head / a.group;
  const float* const q = a.q + batch * a.q_batch + head * a.q_head + query * a.q_row;
  const float* const k = a.k + batch * a.k_batch + kv_head * a.k_head;
  const float* const v = a.v + batch * a.v_batch + kv_head * a.v_head;
  float* const out = a.out + batch * a.out_batch + head * a.out_head + query * a.out_row;
  int64_t end = a.keys;
  if (a.causal && query + a.keys - a.queries + 1 < end) end = query + a.keys - a.queries + 1;
  const int64_t mask = mask_offset(a, batch, head) + query * a.mask_row;

  float top = -__builtin_inff();
  for (int64_t j = 0; j < end; j += 4) {
    const int64_t rows = end - j < 4 ? end - j : 4;
    F acc[4] = {zero(), zero(), zero(), zero()};
    const float* row[4];
    for (int64_t r = 0; r < 4; ++r) row[r] = k + (j + (r < rows ? r : 0)) * a.k_row;
    for (int64_t d = 0; d < a.depth; d += kLanes) {
      const F x = load_part(q + d, a.depth - d);
      for (int r = 0; r < 4; ++r) acc[r] = fma(x, load_part(row[r] + d, a.depth - d), acc[r]);
    }
    for (int64_t r = 0; r < rows; ++r) {
      float x = sum(acc[r]) * a.scale;
      if (a.softcap > 0) x = a.softcap * __builtin_tanhf(x / a.softcap);
      if (a.mask != nullptr) x += mask_value(a, mask + (j + r) * a.mask_col);
      s[j + r] = x;
      if (x > top) top = x;
    }
  }
  const F shift = set1(top == -__builtin_inff() ? 0 : top);
  float total = 0;
  for (int64_t j = 0; j < end; j += kLanes) {
    const int64_t n = end - j;
    F p = exp_negative(load_part(s + j, n) - shift);
    if (n < kLanes) p = keep_first(p, n, zero());
    store(s + j, p);  // the buffer is padded to whole vectors
    total += sum(p);
  }
  const F inverse = set1(total == 0 ? 0 : 1 / total);
  for (int64_t d = 0; d < a.value_depth; d += 4 * kLanes) {
    F acc[4] = {zero(), zero(), zero(), zero()};
    const int64_t left = a.value_depth - d;
    if (left >= 4 * kLanes) {
      for (int64_t j = 0; j < end; ++j) {
        const F p = set1(s[j]);
        for (int r = 0; r < 4; ++r) acc[r] = fma(p, load(v + j * a.v_row + d + r * kLanes), acc[r]);
      }
      for (int r = 0; r < 4; ++r) store(out + d + r * kLanes, acc[r] * inverse);
      continue;
    }
    for (int64_t r = 0; r * kLanes < left; ++r) {
      const int64_t n = left - r * kLanes;
      F one = zero(), two = zero();
      int64_t j = 0;
      for (; j + 2 <= end; j += 2) {
        one = fma(set1(s[j]), load_part(v + j * a.v_row + d + r * kLanes, n), one);
        two = fma(set1(s[j + 1]), load_part(v + (j + 1) * a.v_row + d + r * kLanes, n), two);
      }
      if (j < end) one = fma(set1(s[j]), load_part(v + j * a.v_row + d + r * kLanes, n), one);
      const F result = (one + two) * inverse;
      if (n >= kLanes) store(out + d + r * kLanes, result);
      else store_n(out + d + r * kLanes, result, n);
    }
  }
}

int64_t workspace_floats(const AttentionProblem& a) {
  const int64_t tiled = (a.depth + a.value_depth + kKeys + 1) * kQueries, one = (a.keys + kLanes - 1) / kLanes * kLanes;
  return ((tiled > one ? tiled : one) + 15) / 16 * 16;
}

constexpr AttentionFunctions kAttentionFunctions = {kQueries, kLanes / 4, workspace_floats, tile, single};

}  // namespace
}  // namespace tokamak::cpu
