#pragma once
// Depthwise convolution over NHWC, vectorised over channels and register-blocked along the width. Internal linkage; see conv_simd.h.

#include "backends/cpu/kernels/conv_tile.h"

namespace tokamak::cpu {
namespace {

// COLS neighbouring output pixels of one row. A loaded input pixel serves every output that it touches. INSIDE: all of them lie in the
// image and the channels fill the vector; otherwise columns outside [0, w) are skipped.
template <int KW, int STRIDE, int COLS, bool INSIDE>
void depthwise_block(const DepthwiseArgs& p, const float* x, int64_t ix, const float* w, int64_t kh_begin, int64_t kh_end, Simd::Mask mask,
                     Simd::V* acc) {
  using S = Simd;
  for (int64_t i = kh_begin; i < kh_end; ++i) {
    const float* row = x + i * p.dilation_h * p.w * p.c;
    S::V taps[KW];
#pragma GCC unroll 7
    for (int j = 0; j < KW; ++j) taps[j] = S::load(w + (i * KW + j) * S::kWidth);
#pragma GCC unroll 32
    for (int col = 0; col < (COLS - 1) * STRIDE + KW; ++col) {
      if (!INSIDE && (ix + col < 0 || ix + col >= p.w)) continue;
      const S::V v = INSIDE ? S::load(row + col * p.c) : S::load(row + col * p.c, mask);
#pragma GCC unroll 8
      for (int q = 0; q < COLS; ++q) {
        const int tap = col - q * STRIDE;
        if (tap >= 0 && tap < KW) acc[q] = S::fma(v, taps[tap], acc[q]);
      }
    }
  }
}

struct DepthwiseRow {
  const DepthwiseArgs& p;
  const float* w;  // weights of this channel vector
  int64_t c, oy, iy, kh_begin, kh_end;
  Simd::Mask mask;
  bool lanes_full;
  EpilogueVectors epilogue;

  void store(int64_t ox, Simd::V acc) const {
    const int64_t at = (oy * p.ow + ox) * p.c + c;
    const Simd::V r = p.epilogue.residual ? Simd::load(p.epilogue.residual + at, mask) : Simd::zero();
    Simd::store(p.y + at, epilogue.finish(Simd::add(acc, Simd::load(p.epilogue.bias + c)), r), mask);
  }

  // Any pixel, any kernel.
  void pixel(int64_t ox) const {
    Simd::V acc = Simd::zero();
    for (int64_t i = kh_begin; i < kh_end; ++i)
      for (int64_t j = 0; j < p.kw; ++j) {
        const int64_t ix = ox * p.stride_w - p.pad_left + j * p.dilation_w;
        if (ix < 0 || ix >= p.w) continue;
        const float* x = p.x + ((iy + i * p.dilation_h) * p.w + ix) * p.c + c;
        acc = Simd::fma(Simd::load(x, mask), Simd::load(w + (i * p.kw + j) * Simd::kWidth), acc);
      }
    store(ox, acc);
  }

  template <int KW, int STRIDE, int COLS, bool INSIDE>
  void block(int64_t ox) const {
    Simd::V acc[COLS];
#pragma GCC unroll 8
    for (int q = 0; q < COLS; ++q) acc[q] = Simd::zero();
    const int64_t ix = ox * STRIDE - p.pad_left;
    depthwise_block<KW, STRIDE, COLS, INSIDE>(p, p.x + (iy * p.w + ix) * p.c + c, ix, w, kh_begin, kh_end, mask, acc);
#pragma GCC unroll 8
    for (int q = 0; q < COLS; ++q) {
      if (ox + q >= p.ow) break;
      store(ox + q, acc[q]);
    }
  }

  // The whole row in blocks; the last one may be partly outside.
  template <int KW, int STRIDE>
  void row() const {
    constexpr int kCols = Simd::kWidth == 16 ? 8 : 4;
    for (int64_t ox = 0; ox < p.ow;) {
      const int64_t ix = ox * STRIDE - p.pad_left;
      if (lanes_full && ox + kCols <= p.ow && ix >= 0 && ix + (kCols - 1) * STRIDE + KW <= p.w) {
        block<KW, STRIDE, kCols, true>(ox);
        ox += kCols;
      } else if (p.ow - ox > kCols / 2) {
        block<KW, STRIDE, kCols, false>(ox);
        ox += kCols;
      } else {
        block<KW, STRIDE, kCols / 2, false>(ox);
        ox += kCols / 2;
      }
    }
  }

  void run() const {
    if (p.dilation_w == 1 && p.stride_w == 1) {
      if (p.kw == 3) return row<3, 1>();
      if (p.kw == 5) return row<5, 1>();
      if (p.kw == 7) return row<7, 1>();
    } else if (p.dilation_w == 1 && p.stride_w == 2) {
      if (p.kw == 3) return row<3, 2>();
      if (p.kw == 5) return row<5, 2>();
      if (p.kw == 7) return row<7, 2>();
    }
    for (int64_t ox = 0; ox < p.ow; ++ox) pixel(ox);
  }
};

void depthwise(const DepthwiseArgs& p) {
  const EpilogueVectors epilogue(p.epilogue);
  for (int64_t oy = p.row_begin; oy < p.row_end; ++oy) {
    const int64_t iy = oy * p.stride_h - p.pad_top;
    int64_t kh_begin = 0, kh_end = p.kh;
    while (kh_begin < kh_end && iy + kh_begin * p.dilation_h < 0) ++kh_begin;
    while (kh_end > kh_begin && iy + (kh_end - 1) * p.dilation_h >= p.h) --kh_end;
    for (int64_t c = p.c_begin; c < p.c_end; c += Simd::kWidth) {
      const float* w = p.weights + c * p.kh * p.kw;
      DepthwiseRow{p, w, c, oy, iy, kh_begin, kh_end, Simd::mask(p.c_end - c), p.c_end - c >= Simd::kWidth, epilogue}.run();
    }
  }
}

}  // namespace
}  // namespace tokamak::cpu
