#include "quant/int4.h"

#include <algorithm>
#include <cmath>

#include "backends/cpu/cpu_features.h"
#include "quant/int4_row.h"

namespace tokamak::quant {
namespace {

constexpr float kShrink = 0.3f;  // of moments off the diagonal; best of 0.2, 0.3, 0.5, 0.8 on llama2-docs-27m with 4096 measured tokens
constexpr float kDamp = 0.01f;   // of the mean diagonal, added to it

}  // namespace

// The squared error of a row is e H e^T, H = R R^T with R upper triangular, and column j of e R is that of e up to j: whatever the errors
// before j are, the best e_j is minus their sum over R[i,j] / R[j,j]. R comes from the Cholesky factor of H with rows and columns reversed.
Feedback make_feedback(const Moments& m, ThreadPool& pool) {
  const int64_t k = m.k;
  Feedback out;
  double trace = 0;
  for (int64_t i = 0; i < k; ++i) {
    out.importance.push_back(m.mean[i * k + i]);
    trace += m.mean[i * k + i];
  }
  const auto damp = static_cast<float>(kDamp * trace / static_cast<double>(k) + 1e-12);
  std::vector<float> a(k * k);  // reversed; lower triangle becomes the factor, column by column
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j)
      a[(k - 1 - i) * k + (k - 1 - j)] = i == j ? m.mean[i * k + j] + damp : (1 - kShrink) * m.mean[i * k + j];
  // Right-looking: after step c the trailing block is the Schur complement. The factor is kept as rows of L^T.
  for (int64_t c = 0; c < k; ++c) {
    float* pivot_row = a.data() + c * k;
    const float inverse = 1 / std::sqrt(std::max(pivot_row[c], damp * 1e-3f));
    for (int64_t j = c; j < k; ++j) pivot_row[j] *= inverse;
    pool.parallel_for(k - c - 1, 64, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = c + 1 + begin; i < c + 1 + end; ++i) {
        const float f = pivot_row[i];
        float* row = a.data() + i * k;
        for (int64_t j = i; j < k; ++j) row[j] -= f * pivot_row[j];
      }
    });
  }
  // a[c][r] is L[r][c]; R[i][j] = L[k-1-i][k-1-j]. Errors are w - q, and weight j's target is w_j plus what is carried.
  out.factor.assign(k * k, 0);
  for (int64_t j = 0; j < k; ++j) {
    const float* column = a.data() + (k - 1 - j) * k;
    for (int64_t i = 0; i < j; ++i) out.factor[i * k + j] = column[k - 1 - i] / column[k - 1 - j];
  }
  return out;
}

Quantized quantize_int4(const ConstantMatrix& m, int64_t group_size, const Feedback* feedback, ThreadPool& pool) {
  if (m.k % 2 != 0) return {};
  const int64_t groups = (m.k + group_size - 1) / group_size, padded = groups * group_size;
  Quantized q{Tensor::empty(DType::I4, {m.n, m.k}), Tensor::empty(DType::F32, {m.n, groups}), group_size};
  constexpr int64_t kRows = 16;
  const auto for_rows = [&](const auto& f) {
    pool.parallel_for((m.n + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> rows(kRows * m.k), scratch(2 * padded);
      std::vector<int8_t> integers(padded);
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kRows, last = std::min(m.n, first + kRows);
        read_rows(m, first, last, rows.data());
        for (int64_t row = first; row < last; ++row) f(row, rows.data() + (row - first) * m.k, scratch.data(), integers.data());
      }
    });
  };
  // What magnitudes there are decides how scales are stored, which comes before rounding by them.
  std::vector<float> largest(m.n);
  for_rows([&](int64_t row, const float* x, float*, int8_t*) {
    float top = 0, sum = 0;  // NaN escapes the maximum, not the sum
    for (int64_t i = 0; i < m.k; ++i) top = std::max(top, std::abs(x[i])), sum += x[i] * 0;
    largest[row] = sum == 0 ? top : INFINITY;
  });
  const float top = *std::max_element(largest.begin(), largest.end());
  if (!std::isfinite(top)) return {};
  const bool half_scales = fits_half_scales(top / 8);
  std::vector<float> importance(padded, 1.0f);
  if (feedback != nullptr) std::copy(feedback->importance.begin(), feedback->importance.end(), importance.begin());
  const Int4Row work{m.k, group_size, importance.data(), feedback != nullptr ? feedback->factor.data() : nullptr, half_scales};
  const Int4RowFunction quantize = cpu_features().avx512 ? int4_row_avx512 : int4_row;
  for_rows([&](int64_t row, const float* x, float* scratch, int8_t* integers) {
    quantize(work, x, q.scale.data<float>() + row * groups, integers, scratch, scratch + padded);
    uint8_t* to = q.values.data<uint8_t>() + row * m.k / 2;
    for (int64_t i = 0; i < m.k; i += 2) to[i / 2] = static_cast<uint8_t>((integers[i] & 15) | (integers[i + 1] & 15) << 4);
  });
  if (half_scales) q.scale = to_half(q.scale);
  return q;
}

int weights_to_int4(ir::Graph& graph, int64_t group_size, const MeasuredMoments* moments, ThreadPool& pool) {
  if (group_size != 32 && group_size != 64 && group_size != 128)
    fail(ErrorCode::InvalidArgument, "int4: the group size is {}; expected 32, 64 or 128", group_size);
  int count = 0, made_for = -1;
  Feedback feedback;
  const std::vector<ConstantMatrix> matrices = constant_matrices(graph);
  if (moments != nullptr) CHECK(moments->of_matrix.size() == matrices.size());
  for (size_t i = 0; i < matrices.size(); ++i) {
    const ConstantMatrix& m = matrices[i];
    if (!is_quantizable(m)) continue;
    const bool is_int8 = m.k % 2 != 0 || std::any_of(m.products.begin(), m.products.end(), is_head);
    if (!is_int8 && moments != nullptr && made_for != moments->of_matrix[i]) {
      made_for = moments->of_matrix[i];
      feedback = make_feedback(moments->inputs[made_for], pool);
    }
    const Quantized q =
        is_int8 ? quantize_int8(m, kInt8GroupSize, pool) : quantize_int4(m, group_size, moments != nullptr ? &feedback : nullptr, pool);
    if (!q.values.defined()) continue;
    count += static_cast<int>(m.products.size());
    replace_products(m, q.values, q.scale, q.group_size);
  }
  return count;
}

}  // namespace tokamak::quant
