#include "quant/int4.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/half.h"

namespace tokamak::quant {
namespace {

constexpr int kLanes = 8;       // independent sums, so that loops over a group vectorise
constexpr int kCandidates = 9;  // on either side of the plain scale
constexpr float kStep = 0.1f;   // between them, in units of the grid

// Nearest even integer of |x| < 2^22, in a way that vectorises.
inline float round_small(float x) { return (x + 12582912.0f) - 12582912.0f; }

inline float to_grid(float x) { return std::min(std::max(round_small(x), -8.0f), 7.0f); }

// The best scale of a group of `count` elements, a multiple of kLanes (padded with zeros).
float best_scale(const float* x, int64_t count) {
  float magnitudes[kLanes] = {};
  for (int64_t i = 0; i < count; i += kLanes)
    for (int l = 0; l < kLanes; ++l) magnitudes[l] = std::max(magnitudes[l], std::abs(x[i + l]));
  float largest = *std::max_element(magnitudes, magnitudes + kLanes);
  if (largest == 0) return 0;
  for (int64_t i = 0; i < count; ++i)
    if (std::abs(x[i]) == largest) {
      largest = x[i];  // with its sign
      break;
    }
  float best = 0, scale = 0;
  for (int c = -kCandidates; c <= kCandidates; ++c) {
    const float inverse = -(8 + kStep * static_cast<float>(c)) / largest;
    float xq[kLanes] = {}, qq[kLanes] = {};
    for (int64_t i = 0; i < count; i += kLanes)
      for (int l = 0; l < kLanes; ++l) {
        const float q = to_grid(x[i + l] * inverse);
        xq[l] += x[i + l] * q;
        qq[l] += q * q;
      }
    float sum_xq = 0, sum_qq = 0;
    for (int l = 0; l < kLanes; ++l) sum_xq += xq[l], sum_qq += qq[l];
    // With scale xq/qq the squared error is xx - xq^2/qq.
    if (sum_qq > 0 && sum_xq * sum_xq > best * sum_qq) {
      best = sum_xq * sum_xq / sum_qq;
      scale = sum_xq / sum_qq;
    }
  }
  return scale;
}

}  // namespace

Quantized quantize_int4(const ConstantMatrix& m, int64_t group_size, ThreadPool& pool) {
  if (m.k % 2 != 0) return {};
  const int64_t group = group_size, groups = (m.k + group - 1) / group;
  const int64_t padded = groups * group;
  Quantized q{Tensor::empty(DType::I4, {m.n, m.k}), Tensor::empty(DType::F32, {m.n, groups}), group};
  std::atomic<bool> finite{true};
  constexpr int64_t kRows = 16;
  const auto for_rows = [&](const auto& f) {
    pool.parallel_for((m.n + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> rows(kRows * m.k), row_values(padded, 0);
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kRows, last = std::min(m.n, first + kRows);
        read_rows(m, first, last, rows.data());
        for (int64_t row = first; row < last; ++row) {
          std::copy_n(rows.data() + (row - first) * m.k, m.k, row_values.data());
          f(row, row_values.data());
        }
      }
    });
  };
  for_rows([&](int64_t row, const float* x) {
    float sum = 0;
    for (int64_t i = 0; i < m.k; ++i) sum += x[i] * 0;
    if (sum != 0) finite = false;
    for (int64_t g = 0; g < groups && finite; ++g) q.scale.data<float>()[row * groups + g] = best_scale(x + g * group, group);
  });
  if (!finite) return {};
  q.scale = compact_scale(q.scale);
  for_rows([&](int64_t row, const float* x) {
    uint8_t* to = q.values.data<uint8_t>() + row * m.k / 2;
    for (int64_t g = 0; g < groups; ++g) {
      const auto scale = static_cast<float>(q.scale.float_at(row * groups + g));
      const float inverse = scale != 0 ? 1 / scale : 0;
      for (int64_t i = g * group; i < std::min(m.k, (g + 1) * group); i += 2) {
        const int low = static_cast<int>(to_grid(x[i] * inverse)), high = static_cast<int>(to_grid(x[i + 1] * inverse));
        to[i / 2] = static_cast<uint8_t>((low & 15) | (high & 15) << 4);
      }
    }
  });
  return q;
}

int weights_to_int4(ir::Graph& graph, int64_t group_size, ThreadPool& pool) {
  if (group_size != 32 && group_size != 64 && group_size != 128)
    fail(ErrorCode::InvalidArgument, "int4: the group size is {}; expected 32, 64 or 128", group_size);
  int count = 0;
  for (const ConstantMatrix& m : constant_matrices(graph)) {
    if (!is_quantizable(m)) continue;
    const bool head = std::any_of(m.products.begin(), m.products.end(), is_head);
    const Quantized q = head || m.k % 2 != 0 ? quantize_int8(m, 0, pool) : quantize_int4(m, group_size, pool);
    if (!q.values.defined()) continue;
    count += static_cast<int>(m.products.size());
    replace_products(m, q.values, q.scale, q.group_size);
  }
  return count;
}

}  // namespace tokamak::quant
