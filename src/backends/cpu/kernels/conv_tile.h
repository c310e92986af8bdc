#pragma once
// The register tile: MR rows by NV vectors, summed over K segments, with the epilogue applied before the store. Internal linkage; see
// conv_simd.h.

#include "backends/cpu/kernels/conv_isa.h"
#include "backends/cpu/kernels/conv_simd.h"

namespace tokamak::cpu {
namespace {

struct EpilogueVectors {
  Simd::V low, high;
  bool hard_swish, residual_after;
  explicit EpilogueVectors(const RegisterEpilogue& e)
      : low(Simd::set1(e.low)), high(Simd::set1(e.high)), hard_swish(e.hard_swish), residual_after(e.residual_after) {}
  Simd::V activate(Simd::V x) const {
    if (hard_swish) {
      const Simd::V gate = Simd::fma(x, Simd::set1(1.0f / 6), Simd::set1(0.5f));
      return Simd::mul(x, Simd::at_most(Simd::at_least(gate, Simd::zero()), Simd::set1(1)));
    }
    return Simd::at_most(Simd::at_least(x, low), high);
  }
  Simd::V finish(Simd::V x, Simd::V residual) const {
    return residual_after ? Simd::add(activate(x), residual) : activate(Simd::add(x, residual));
  }
};

constexpr int64_t kLineBytes = 64;
constexpr int64_t kFetchSteps = 16;  // steps of K between two rounds of prefetches

// The share of PanelArgs::next_b that one register tile fetches: `lines` cache lines every kFetchSteps.
struct Fetch {
  const char* at;
  const char* end;
  int64_t lines;
};

template <int MR, int NV>
void register_tile(const float* const* rows, const PanelArgs& p, Fetch fetch, float* c, const float* residual) {
  using S = Simd;
  S::V acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[i][v] = S::zero();

  const float* b = p.b;
  for (int64_t s = 0; s < p.num_segments; ++s) {
    const float* a[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) a[i] = rows[i] + p.segments[s].offset;
    const int64_t len = p.segments[s].len;
    for (int64_t k = 0; k < len;) {
      const int64_t pause = len - k < kFetchSteps ? len : k + kFetchSteps;
      for (int64_t line = 0; line < fetch.lines && fetch.at < fetch.end; ++line, fetch.at += kLineBytes)
        _mm_prefetch(fetch.at, _MM_HINT_T1);
      for (; k < pause; ++k) {
        S::V bv[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) bv[v] = S::load(b + v * S::kWidth);
        b += NV * S::kWidth;
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
          const S::V x = S::set1(a[i][k]);
#pragma GCC unroll 4
          for (int v = 0; v < NV; ++v) acc[i][v] = S::fma(x, bv[v], acc[i][v]);
        }
      }
    }
  }

  const S::Mask tail = S::mask(p.n - (NV - 1) * S::kWidth);
  const S::Mask all = S::mask(S::kWidth);
  if (p.load_c) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[i][v] = S::add(acc[i][v], S::load(c + i * p.ldc + v * S::kWidth, v == NV - 1 ? tail : all));
  }
  if (p.plain) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) S::store(c + i * p.ldc + v * S::kWidth, acc[i][v], v == NV - 1 ? tail : all);
    return;
  }
  const EpilogueVectors epilogue(p.epilogue);
  if (residual != nullptr || epilogue.hard_swish) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const S::Mask m = v == NV - 1 ? tail : all;
        const int64_t at = i * p.ldc + v * S::kWidth;
        const S::V r = residual != nullptr ? S::load(residual + at, m) : S::zero();
        S::store(c + at, epilogue.finish(S::add(acc[i][v], S::load(p.epilogue.bias + v * S::kWidth)), r), m);
      }
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      const S::V x = S::add(acc[i][v], S::load(p.epilogue.bias + v * S::kWidth));
      const S::V y = S::at_most(S::at_least(x, epilogue.low), epilogue.high);
      if (v == NV - 1) S::store(c + i * p.ldc + v * S::kWidth, y, tail);
      else S::store(c + i * p.ldc + v * S::kWidth, y);
    }
}

using TileFunction = void (*)(const float* const*, const PanelArgs&, Fetch, float*, const float*);

template <int NV, int MR>
TileFunction pick_rows(int64_t rows) {
  if constexpr (MR == 0) return nullptr;
  else return rows == MR ? &register_tile<MR, NV> : pick_rows<NV, MR - 1>(rows);
}

template <int NV>
TileFunction pick_tile(int nv, int64_t rows) {
  if constexpr (NV == 0) return nullptr;
  else return nv == NV ? pick_rows<NV, Simd::max_rows(NV)>(rows) : pick_tile<NV - 1>(nv, rows);
}

// Tiles of nearly equal height: 49 rows are seven tiles of 7, not six of 8 and a slow one of 1.
void panel(const PanelArgs& p) {
  if (p.m <= 0) return;
  const int64_t max_rows = Simd::max_rows(p.nv);
  const int64_t tiles = (p.m + max_rows - 1) / max_rows;
  const int64_t low = p.m / tiles, extra = p.m % tiles;
  const TileFunction tall = pick_tile<Simd::kMaxNv>(p.nv, low + 1), flat = pick_tile<Simd::kMaxNv>(p.nv, low);
  int64_t rounds = 0;
  for (int64_t s = 0; s < p.num_segments; ++s) rounds += (p.segments[s].len + kFetchSteps - 1) / kFetchSteps;
  const int64_t lines = (p.next_floats * static_cast<int64_t>(sizeof(float)) + kLineBytes - 1) / kLineBytes;
  const int64_t share = (lines + tiles - 1) / tiles, per_round = rounds == 0 ? 0 : (share + rounds - 1) / rounds;
  const char* next = reinterpret_cast<const char*>(p.next_b);
  int64_t row = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    const bool is_tall = t < extra;
    const int64_t from = t * share < lines ? t * share : lines, to = from + share < lines ? from + share : lines;
    const Fetch fetch{next + from * kLineBytes, next + to * kLineBytes, per_round};
    (is_tall ? tall : flat)(p.rows + row, p, fetch, p.c + row * p.ldc, p.epilogue.residual ? p.epilogue.residual + row * p.ldc : nullptr);
    row += low + is_tall;
  }
}

}  // namespace
}  // namespace tokamak::cpu
