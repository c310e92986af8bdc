#pragma once
// Winograd transforms F(2x2, 3x3) and F(4x4, 3x3): minimal filtering (Lavin and Gray, arXiv:1509.09308) by Toom-Cook interpolation at the
// points 0, +-a, +-b and infinity. Vectorised over channels. Internal linkage; see conv_simd.h.

#include "backends/cpu/kernels/conv_tile.h"
#include "backends/cpu/kernels/conv_winograd_points.h"

namespace tokamak::cpu {
namespace {

template <int M>
struct Transform;

template <>
struct Transform<2> {
  using S = Simd;
  static void input(const S::V* d, S::V* r) {
    r[0] = S::sub(d[2], d[0]);
    r[1] = S::add(d[2], d[1]);
    r[2] = S::sub(d[2], d[1]);
    r[3] = S::sub(d[3], d[1]);
  }
  static void output(const S::V* s, S::V* y) {
    y[0] = S::add(s[0], S::add(s[1], s[2]));
    y[1] = S::add(S::sub(s[1], s[2]), s[3]);
  }
};

template <>
struct Transform<4> {
  using S = Simd;
  static constexpr double a = kWinogradA, b = kWinogradB;
  static S::V k(double x) { return S::set1(static_cast<float>(x)); }
  static void input(const S::V* d, S::V* r) {
    r[0] = S::fma(k(a * a * b * b), d[0], S::fnma(k(a * a + b * b), d[2], d[4]));
    const S::V even_a = S::fnma(k(b * b), d[2], d[4]), odd_a = S::mul(k(a), S::fnma(k(b * b), d[1], d[3]));
    const S::V even_b = S::fnma(k(a * a), d[2], d[4]), odd_b = S::mul(k(b), S::fnma(k(a * a), d[1], d[3]));
    r[1] = S::add(even_a, odd_a);
    r[2] = S::sub(even_a, odd_a);
    r[3] = S::add(even_b, odd_b);
    r[4] = S::sub(even_b, odd_b);
    r[5] = S::fma(k(a * a * b * b), d[1], S::fnma(k(a * a + b * b), d[3], d[5]));
  }
  static void output(const S::V* s, S::V* y) {
    const S::V plus_a = S::add(s[1], s[2]), minus_a = S::sub(s[1], s[2]);
    const S::V plus_b = S::add(s[3], s[4]), minus_b = S::sub(s[3], s[4]);
    y[0] = S::add(s[0], S::add(plus_a, plus_b));
    y[1] = S::fma(k(a), minus_a, S::mul(k(b), minus_b));
    y[2] = S::fma(k(a * a), plus_a, S::mul(k(b * b), plus_b));
    y[3] = S::fma(k(a * a * a), minus_a, S::fma(k(b * b * b), minus_b, s[5]));
  }
};

template <int M>
void winograd_input_tiles(const WinogradInput& p) {
  using S = Simd;
  constexpr int T = M + 2;
  for (int64_t tile = p.tile_begin; tile < p.tile_end; ++tile) {
    const int64_t y0 = tile / p.tiles_w * M - p.pad_top, x0 = tile % p.tiles_w * M - p.pad_left;
    const bool inside = y0 >= 0 && x0 >= 0 && y0 + T <= p.h && x0 + T <= p.w;
    const float* corner = p.x + (y0 * p.w + x0) * p.c;
    float* v = p.v + (tile - p.tile_begin) * p.ldv;
    for (int64_t c = p.c_begin; c < p.c_end; c += S::kWidth) {
      const bool whole = c + S::kWidth <= p.c_end;
      const S::Mask mask = S::mask(p.c_end - c);
      S::V half[T][T];  // [transformed row][column]
#pragma GCC unroll 6
      for (int j = 0; j < T; ++j) {
        S::V d[T], r[T];
        if (inside && whole) {
#pragma GCC unroll 6
          for (int i = 0; i < T; ++i) d[i] = S::load(corner + (i * p.w + j) * p.c + c);
        } else {
          for (int i = 0; i < T; ++i) {
            const bool valid = y0 + i >= 0 && y0 + i < p.h && x0 + j >= 0 && x0 + j < p.w;
            d[i] = valid ? S::load(p.x + ((y0 + i) * p.w + x0 + j) * p.c + c, mask) : S::zero();
          }
        }
        Transform<M>::input(d, r);
#pragma GCC unroll 6
        for (int i = 0; i < T; ++i) half[i][j] = r[i];
      }
#pragma GCC unroll 6
      for (int i = 0; i < T; ++i) {
        S::V r[T];
        Transform<M>::input(half[i], r);
#pragma GCC unroll 6
        for (int j = 0; j < T; ++j) S::store(v + (i * T + j) * p.v_stride + c, r[j]);
      }
    }
  }
}

template <int M>
void winograd_output_tiles(const WinogradOutput& p) {
  using S = Simd;
  constexpr int T = M + 2;
  const EpilogueVectors epilogue(p.epilogue);
  for (int64_t tile = p.tile_begin; tile < p.tile_end; ++tile) {
    const int64_t y0 = tile / p.tiles_w * M, x0 = tile % p.tiles_w * M;
    const float* s = p.s + (tile - p.tile_begin) * p.lds;
    const int64_t rows = p.oh - y0 < M ? p.oh - y0 : M, cols = p.ow - x0 < M ? p.ow - x0 : M;
    for (int64_t n = 0; n < p.n; n += S::kWidth) {
      const S::Mask mask = S::mask(p.n - n);
      const S::V bias = S::load(p.epilogue.bias + n);
      S::V half[M][T];
#pragma GCC unroll 6
      for (int j = 0; j < T; ++j) {
        S::V d[T], r[M];
#pragma GCC unroll 6
        for (int i = 0; i < T; ++i) d[i] = S::load(s + (i * T + j) * p.s_stride + n);
        Transform<M>::output(d, r);
#pragma GCC unroll 6
        for (int i = 0; i < M; ++i) half[i][j] = r[i];
      }
      for (int i = 0; i < rows; ++i) {
        S::V out[M];
        Transform<M>::output(half[i], out);
        const int64_t at = ((y0 + i) * p.ow + x0) * p.ldc + n;
#pragma GCC unroll 4
        for (int j = 0; j < M; ++j) {
          if (j >= cols) break;
          const S::V r = p.epilogue.residual ? S::load(p.epilogue.residual + at + j * p.ldc, mask) : S::zero();
          S::store(p.y + at + j * p.ldc, epilogue.finish(S::add(out[j], bias), r), mask);
        }
      }
    }
  }
}

void winograd_input(int m, const WinogradInput& p) { m == 2 ? winograd_input_tiles<2>(p) : winograd_input_tiles<4>(p); }
void winograd_output(int m, const WinogradOutput& p) { m == 2 ? winograd_output_tiles<2>(p) : winograd_output_tiles<4>(p); }

}  // namespace
}  // namespace tokamak::cpu
