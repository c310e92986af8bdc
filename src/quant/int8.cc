#include "quant/int8.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/half.h"

namespace tokamak::quant {

bool is_quantizable(const ConstantMatrix& m) {
  return std::all_of(m.products.begin(), m.products.end(), [](const ir::Node* node) {
    return node->attrs.get_float("alpha", 1) == 1 && !node->attrs.get_bool("trans_a", false) && node->input(0)->type.ranked &&
           node->input(0)->type.rank() >= 1;
  });
}

// Below, typical scales would leave f16's normal range; groups far below the largest do not matter.
bool fits_half_scales(float largest) { return largest < 65000 && largest > 0x1p-11f; }

Tensor to_half(const Tensor& scale) {
  Tensor out = Tensor::empty(DType::F16, scale.shape());
  for (int64_t i = 0; i < scale.count(); ++i) out.data<uint16_t>()[i] = float_to_half(scale.data<float>()[i]);
  return out;
}

Quantized quantize_int8(const ConstantMatrix& m, int64_t group_size, ThreadPool& pool) {
  const int64_t group = group_size > 0 ? std::min(group_size, m.k) : m.k, groups = (m.k + group - 1) / group;
  Quantized q{Tensor::empty(DType::I8, {m.n, m.k}), Tensor::empty(DType::F32, {m.n, groups}), group};
  constexpr int64_t kRows = 16;
  std::atomic<bool> finite{true};
  // Scales first: rounding them to f16 comes before rounding weights by them.
  const auto for_rows = [&](const auto& f) {
    pool.parallel_for((m.n + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> rows(kRows * m.k);
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kRows, last = std::min(m.n, first + kRows);
        read_rows(m, first, last, rows.data());
        for (int64_t row = first; row < last; ++row)
          for (int64_t g = 0; g < groups; ++g) {
            const int64_t at = g * group;
            f(row, g, rows.data() + (row - first) * m.k + at, at, std::min(group, m.k - at));
          }
      }
    });
  };
  for_rows([&](int64_t row, int64_t g, const float* x, int64_t, int64_t count) {
    float largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(x[i]));
    float sum = 0;  // NaN escapes the maximum, not this
    for (int64_t i = 0; i < count; ++i) sum += x[i] * 0;
    if (!std::isfinite(largest) || sum != 0) finite = false;
    q.scale.data<float>()[row * groups + g] = largest / 127;
  });
  if (!finite) return {};
  const float* scales = q.scale.data<float>();
  if (group < m.k && fits_half_scales(*std::max_element(scales, scales + q.scale.count()))) q.scale = to_half(q.scale);
  for_rows([&](int64_t row, int64_t g, const float* x, int64_t at, int64_t count) {
    const auto scale = static_cast<float>(q.scale.float_at(row * groups + g));
    const float inverse = scale > 0 ? 1 / scale : 0;
    int8_t* to = q.values.data<int8_t>() + row * m.k + at;
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<int8_t>(std::clamp(std::nearbyint(x[i] * inverse), -127.0f, 127.0f));
  });
  return q;
}

int weights_to_int8(ir::Graph& graph, int64_t group_size, ThreadPool& pool) {
  int count = 0;
  for (const ConstantMatrix& m : constant_matrices(graph)) {
    if (!is_quantizable(m)) continue;
    const Quantized q = quantize_int8(m, group_size, pool);
    if (!q.values.defined()) continue;
    count += static_cast<int>(m.products.size());
    replace_products(m, q.values, q.scale, q.group_size);
  }
  return count;
}

}  // namespace tokamak::quant
