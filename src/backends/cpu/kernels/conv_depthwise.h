#pragma once
// Depthwise convolution over NHWC, vectorised over channels and register-blocked along the width. Internal linkage; see conv_simd.h.

#include "backends/cpu/kernels/conv_tile.h"

namespace tokamak::cpu {
namespace {

// COLS output pixels of one row whose whole kernel width lies inside the image. A loaded input pixel serves every output that it touches.
template <int KW, int STRIDE, int COLS>
void depthwise_block(const DepthwiseArgs& p, const float* x, const float* w, int64_t kh_begin, int64_t kh_end, Simd::Mask mask, Simd::V* acc) {
  using S = Simd;
  for (int64_t i = kh_begin; i < kh_end; ++i) {
    const float* row = x + i * p.dilation_h * p.w * p.c;
    S::V taps[KW];
#pragma GCC unroll 7
    for (int j = 0; j < KW; ++j) taps[j] = S::load(w + (i * KW + j) * S::kWidth);
#pragma GCC unroll 32
    for (int col = 0; col < (COLS - 1) * STRIDE + KW; ++col) {
      const S::V v = S::load(row + col * p.c, mask);
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
  const float* w;         // weights of this channel vector
  int64_t c, oy, iy, kh_begin, kh_end;
  Simd::Mask mask;
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

  template <int KW, int STRIDE, int COLS>
  int64_t blocks(int64_t ox, int64_t end) const {
    for (; ox + COLS <= end; ox += COLS) {
      Simd::V acc[COLS];
#pragma GCC unroll 8
      for (int q = 0; q < COLS; ++q) acc[q] = Simd::zero();
      const float* x = p.x + (iy * p.w + ox * STRIDE - p.pad_left) * p.c + c;
      depthwise_block<KW, STRIDE, COLS>(p, x, w, kh_begin, kh_end, mask, acc);
#pragma GCC unroll 8
      for (int q = 0; q < COLS; ++q) store(ox + q, acc[q]);
    }
    return ox;
  }

  template <int KW, int STRIDE>
  int64_t interior(int64_t ox, int64_t end) const {
    if constexpr (Simd::kWidth == 16) ox = blocks<KW, STRIDE, 8>(ox, end);
    ox = blocks<KW, STRIDE, 4>(ox, end);
    ox = blocks<KW, STRIDE, 2>(ox, end);
    return blocks<KW, STRIDE, 1>(ox, end);
  }

  void run() const {
    // Output columns whose taps are all inside.
    int64_t first = (p.pad_left + p.stride_w - 1) / p.stride_w;
    const int64_t room = p.w + p.pad_left - ((p.kw - 1) * p.dilation_w + 1);
    int64_t last = room < 0 ? 0 : room / p.stride_w + 1;
    if (last > p.ow) last = p.ow;
    if (first > last) first = last;
    int64_t ox = 0;
    if (p.dilation_w == 1) {
      for (; ox < first; ++ox) pixel(ox);
      if (p.stride_w == 1) {
        if (p.kw == 3) ox = interior<3, 1>(ox, last);
        else if (p.kw == 5) ox = interior<5, 1>(ox, last);
        else if (p.kw == 7) ox = interior<7, 1>(ox, last);
      } else if (p.stride_w == 2) {
        if (p.kw == 3) ox = interior<3, 2>(ox, last);
        else if (p.kw == 5) ox = interior<5, 2>(ox, last);
        else if (p.kw == 7) ox = interior<7, 2>(ox, last);
      }
    }
    for (; ox < p.ow; ++ox) pixel(ox);
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
      DepthwiseRow{p, w, c, oy, iy, kh_begin, kh_end, Simd::mask(p.c_end - c), epilogue}.run();
    }
  }
}

}  // namespace
}  // namespace tokamak::cpu
