#pragma once
// Pooling, reductions over rows, and blending, vectorised over channels. Internal linkage; see conv_simd.h.

#include "backends/cpu/kernels/conv_isa.h"
#include "backends/cpu/kernels/conv_simd.h"

namespace tokamak::cpu {
namespace {

// Window positions [begin, end) of one axis that lie in [0, size), and how many lie in the padded input.
struct PoolRange {
  int64_t begin, end, padded;
  PoolRange(int64_t first, int64_t kernel, int64_t dilation, int64_t size, int64_t pad_end) : begin(0), end(kernel), padded(kernel) {
    while (begin < end && first + begin * dilation < 0) ++begin;
    while (end > begin && first + (end - 1) * dilation >= size) --end;
    while (padded > 0 && first + (padded - 1) * dilation >= size + pad_end) --padded;
  }
};

template <int NV>
void pool_vectors(const PoolArgs& p, const float* x, const PoolRange& rows, const PoolRange& cols, float scale, Simd::Mask mask, float* y) {
  using S = Simd;
  S::V acc[NV];
  for (int v = 0; v < NV; ++v) acc[v] = p.is_max ? S::set1(-__builtin_inff()) : S::zero();
  for (int64_t i = rows.begin; i < rows.end; ++i)
    for (int64_t j = cols.begin; j < cols.end; ++j) {
      const float* in = x + (i * p.dilation_h * p.w + j * p.dilation_w) * p.c;
      for (int v = 0; v < NV; ++v) {
        const S::V value = NV == 1 ? S::load(in, mask) : S::load(in + v * S::kWidth);
        acc[v] = p.is_max ? S::at_least(acc[v], value) : S::add(acc[v], value);
      }
    }
  for (int v = 0; v < NV; ++v) {
    const S::V value = p.is_max ? acc[v] : S::mul(acc[v], S::set1(scale));
    if (NV == 1) S::store(y, value, mask);
    else S::store(y + v * S::kWidth, value);
  }
}

void pool(const PoolArgs& p) {
  constexpr int64_t kVectors = 4, kWide = kVectors * Simd::kWidth;
  for (int64_t oy = p.row_begin; oy < p.row_end; ++oy) {
    const int64_t iy = oy * p.stride_h - p.pad_top;
    const PoolRange rows(iy, p.kh, p.dilation_h, p.h, p.pad_bottom);
    for (int64_t ox = 0; ox < p.ow; ++ox) {
      const int64_t ix = ox * p.stride_w - p.pad_left;
      const PoolRange cols(ix, p.kw, p.dilation_w, p.w, p.pad_right);
      const int64_t count = p.include_pad ? rows.padded * cols.padded : (rows.end - rows.begin) * (cols.end - cols.begin);
      const float scale = count > 0 ? 1.0f / static_cast<float>(count) : 0.0f;
      const float* x = p.x + (iy * p.w + ix) * p.c;
      float* y = p.y + (oy * p.ow + ox) * p.ldy;
      int64_t c = 0;
      for (; c + kWide <= p.c; c += kWide) pool_vectors<kVectors>(p, x + c, rows, cols, scale, Simd::mask(Simd::kWidth), y + c);
      for (; c < p.c; c += Simd::kWidth) pool_vectors<1>(p, x + c, rows, cols, scale, Simd::mask(p.c - c), y + c);
    }
  }
}

// Sums in blocks of rows, so that the error of a long column stays that of a short one.
template <int NV>
void column_vectors(const ColumnArgs& p, int64_t c, Simd::Mask mask) {
  using S = Simd;
  constexpr int64_t kBlock = 64;
  const bool is_max = p.reduction == ColumnReduction::Max;
  S::V total[NV];
  for (int v = 0; v < NV; ++v) total[v] = is_max ? S::set1(-__builtin_inff()) : S::zero();
  for (int64_t r0 = 0; r0 < p.rows; r0 += kBlock) {
    const int64_t r1 = r0 + kBlock < p.rows ? r0 + kBlock : p.rows;
    S::V acc[NV];
    for (int v = 0; v < NV; ++v) acc[v] = is_max ? total[v] : S::zero();
    for (int64_t r = r0; r < r1; ++r)
      for (int v = 0; v < NV; ++v) {
        const float* in = p.x + r * p.stride + c + v * S::kWidth;
        const S::V value = NV == 1 ? S::load(in, mask) : S::load(in);
        acc[v] = is_max ? S::at_least(acc[v], value) : S::add(acc[v], value);
      }
    for (int v = 0; v < NV; ++v) total[v] = is_max ? acc[v] : S::add(total[v], acc[v]);
  }
  for (int v = 0; v < NV; ++v) {
    const S::V value = S::mul(total[v], S::set1(p.scale));
    if (NV == 1) S::store(p.y + c, value, mask);
    else S::store(p.y + c + v * S::kWidth, value);
  }
}

void columns(const ColumnArgs& p) {
  int64_t c = 0;
  for (; c + 4 * Simd::kWidth <= p.columns; c += 4 * Simd::kWidth) column_vectors<4>(p, c, Simd::mask(Simd::kWidth));
  for (; c < p.columns; c += Simd::kWidth) column_vectors<1>(p, c, Simd::mask(p.columns - c));
}

void blend(const BlendArgs& p) {
  using S = Simd;
  const S::V wa = S::set1(p.w[0]), wb = S::set1(p.w[1]), wc = S::set1(p.w[2]), wd = S::set1(p.w[3]);
  for (int64_t i = 0; i < p.count; i += S::kWidth) {
    const S::Mask mask = S::mask(p.count - i);
    const S::V top = S::fma(wb, S::load(p.b + i, mask), S::mul(wa, S::load(p.a + i, mask)));
    S::store(p.y + i, S::fma(wd, S::load(p.d + i, mask), S::fma(wc, S::load(p.c + i, mask), top)), mask);
  }
}

}  // namespace
}  // namespace tokamak::cpu
