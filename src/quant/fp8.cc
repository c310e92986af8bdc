#include "quant/fp8.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>

#include "quant/int8.h"

namespace tokamak::quant {

uint8_t to_e4m3(float x) {
  constexpr uint8_t kLargest = 0x7e;  // 448
  uint32_t bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80);
  bits &= 0x7fffffff;
  if (bits < 0x3c800000)  // below 2^-6: multiples of 2^-9
    return sign | static_cast<uint8_t>(std::nearbyint(std::bit_cast<float>(bits) * 512));
  bits += 0x7ffff + (bits >> 20 & 1);
  const uint32_t code = (bits >> 20) - ((127 - 7) << 3);
  return sign | static_cast<uint8_t>(std::min<uint32_t>(code, kLargest));
}

namespace {

struct Fp8 {
  Tensor values, scale;
};

// Undefined when the matrix holds NaN or infinity.
Fp8 quantize(const ConstantMatrix& m, ThreadPool& pool) {
  constexpr int64_t kRows = 16;
  Fp8 q{Tensor::empty(DType::F8E4M3FN, {m.n, m.k}), Tensor::empty(DType::F32, {m.n, 1})};
  std::atomic<bool> finite{true};
  pool.parallel_for((m.n + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> rows(kRows * m.k);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kRows, last = std::min(m.n, first + kRows);
      read_rows(m, first, last, rows.data());
      for (int64_t row = first; row < last; ++row) {
        const float* x = rows.data() + (row - first) * m.k;
        float largest = 0, sum = 0;  // NaN escapes the maximum, not the sum
        for (int64_t i = 0; i < m.k; ++i) largest = std::max(largest, std::abs(x[i])), sum += x[i] * 0;
        if (!std::isfinite(largest) || sum != 0) finite = false;
        const float inverse = largest > 0 ? 448 / largest : 0;
        q.scale.data<float>()[row] = largest / 448;
        uint8_t* to = q.values.data<uint8_t>() + row * m.k;
        for (int64_t i = 0; i < m.k; ++i) to[i] = to_e4m3(x[i] * inverse);
      }
    }
  });
  return finite ? q : Fp8{};
}

}  // namespace

int weights_to_fp8(ir::Graph& graph, ThreadPool& pool) {
  int count = 0;
  for (const ConstantMatrix& m : constant_matrices(graph)) {
    if (!is_quantizable(m)) continue;
    const Fp8 q = quantize(m, pool);
    if (!q.values.defined()) continue;
    count += static_cast<int>(m.products.size());
    replace_products(m, q.values, q.scale, m.k);
  }
  return count;
}

}  // namespace tokamak::quant
