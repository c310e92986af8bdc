#include "backends/cpu/kernels/paged_attention_loops.h"

namespace tokamak::cpu {
namespace {

// The operand of ldtilecfg, palette 1: all eight tiles are 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
constexpr TileConfig kConfig;

constexpr int kRowBytes = kRow * 4;

// Products by AMX tiles: rows in sixteens (rows past the last hold anything and their results are not read), keys of a K fragment or 16
// elements of V across. Tiles 0 to 3 are sums, 4 and 5 weights, 6 and 7 cache.
struct AmxProducts {
  static constexpr int kPair = 2;
  static constexpr bool kBf16Weights = true;
  static constexpr int64_t kFragmentStep = 2;  // 32 tokens are the 16 pair rows of a V tile

  static void store_bf16(uint16_t* p, F a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a.v)));
  }

  static void begin() { _tile_loadconfig(&kConfig); }
  static void end() { _tile_release(); }

  // Fragments that are absent are computed from one that is present, then overwritten.
  static void scores(const uint32_t* q, const KeyGroup& group, int64_t rows, int64_t dim, float* s) {
    const uint32_t* present = nullptr;
    for (int64_t f = group.begin; f < group.end; ++f) present = group.k[f] != nullptr ? group.k[f] : present;
    const auto at = [&](int64_t f) { return group.k[f] != nullptr ? group.k[f] : present; };
    int64_t f = present != nullptr ? group.begin : group.end;
    for (; f < group.end && rows > 16; f += 2) {
      const uint32_t* const k[] = {at(f), at(f + 1)};
      score_rows32(q, k, group.k_ahead + f, dim, s + f * kFragment);
    }
    for (; f + 4 <= group.end; f += 4) {
      const uint32_t* const k[] = {at(f), at(f + 1), at(f + 2), at(f + 3)};
      score_rows16<4>(q, k, group.k_ahead + f, dim, s + f * kFragment);
    }
    if (f < group.end) {
      const uint32_t* const k[] = {at(f), at(f + 1)};
      score_rows16<2>(q, k, group.k_ahead + f, dim, s + f * kFragment);
    }
    for (f = group.begin; f < group.end; ++f)
      for (int64_t r = 0; r < rows && group.k[f] == nullptr; ++r) store(s + r * kRow + f * kFragment, minus_inf());
  }
  // As many lines as a tile has.
  static void prefetch_tile(const uint32_t* p) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < 16; ++i) prefetch<kPair>(p + i * 16);
  }
  static void score_rows32(const uint32_t* q, const uint32_t* const* k, const uint32_t* const* ahead, int64_t dim, float* s) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t w = 0; w < dim / 2; w += 16) {
      _tile_loadd(4, q + w, kRowBytes);
      _tile_loadd(6, k[0] + w * kFragment, 64);
      prefetch_tile(ahead[0] + w * kFragment);
      _tile_loadd(7, k[1] + w * kFragment, 64);
      prefetch_tile(ahead[1] + w * kFragment);
      _tile_loadd(5, q + 16 * kRow + w, kRowBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, s, kRowBytes);
    _tile_stored(1, s + 16, kRowBytes);
    _tile_stored(2, s + 16 * kRow, kRowBytes);
    _tile_stored(3, s + 16 * kRow + 16, kRowBytes);
  }
  template <int kFragmentsTogether>
  static void score_rows16(const uint32_t* q, const uint32_t* const* k, const uint32_t* const* ahead, int64_t dim, float* s) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t w = 0; w < dim / 2; w += 16) {
      _tile_loadd(4, q + w, kRowBytes);
      _tile_loadd(6, k[0] + w * kFragment, 64);
      prefetch_tile(ahead[0] + w * kFragment);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, k[1] + w * kFragment, 64);
      prefetch_tile(ahead[1] + w * kFragment);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (kFragmentsTogether == 4) {
        _tile_loadd(5, k[2] + w * kFragment, 64);
        prefetch_tile(ahead[2] + w * kFragment);
        _tile_dpbf16ps(2, 4, 5);
        _tile_loadd(6, k[3] + w * kFragment, 64);
        prefetch_tile(ahead[3] + w * kFragment);
        _tile_dpbf16ps(3, 4, 6);
      }
    }
    _tile_stored(0, s, kRowBytes);
    _tile_stored(1, s + 16, kRowBytes);
    if constexpr (kFragmentsTogether == 4) {
      _tile_stored(2, s + 32, kRowBytes);
      _tile_stored(3, s + 48, kRowBytes);
    }
  }

  static void values(const float* s, const KeyGroup& group, int64_t rows, int64_t dim, uint32_t* scratch, float* part) {
    // Two fragments that lie behind each other are a tile as they are; others, and a pair with unused slots, are copied.
    const uint32_t* pairs[kFragments / 2];
    const int64_t half_words = kFragment / 2 * dim;
    for (int64_t f = group.begin; f < group.end; f += 2) {
      const uint32_t* const* const v = group.v + f;
      pairs[f / 2] = v[0];
      if (v[0] != nullptr && v[1] == v[0] + half_words && (f + 2) * kFragment <= group.keys) continue;
      uint32_t* const to = scratch + f * half_words;
      for (int64_t i = 0; i < 2; ++i)
        copy_values(v[i], std::clamp<int64_t>(group.keys - (f + i) * kFragment, 0, kFragment), dim, to + i * half_words);
      pairs[f / 2] = to;
    }
    const auto* const weights = reinterpret_cast<const uint32_t*>(s);
    const int64_t across = rows > 16 ? 32 : 64;
    for (int64_t d = 0; d < dim; d += across) {
      const int64_t tiles = std::min(across, dim - d) / 16;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t f = group.begin; f < group.end; f += 2) {
        const uint32_t* const x = pairs[f / 2] + d;
        const uint32_t* const w = weights + f * (kFragment / 2);
        const auto fetch = [&](int64_t across) {  // the same part of what comes later
#pragma GCC unroll 8
          for (int64_t i = 0; i < kFragment / 2; ++i) {
            prefetch<kPair>(group.v_ahead[f] + i * dim + d + across);
            prefetch<kPair>(group.v_ahead[f + 1] + i * dim + d + across);
          }
        };
        _tile_loadd(4, w, kRowBytes);
        _tile_loadd(6, x, dim * 4);
        fetch(0);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, x + 16, dim * 4);
        fetch(16);
        _tile_dpbf16ps(1, 4, 7);
        if (rows > 16) {
          _tile_loadd(5, w + 16 * kRow, kRowBytes);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        } else if (tiles > 2) {
          _tile_loadd(6, x + 32, dim * 4);
          fetch(32);
          _tile_dpbf16ps(2, 4, 6);
          _tile_loadd(7, x + 48, dim * 4);
          fetch(48);
          _tile_dpbf16ps(3, 4, 7);
        }
      }
      _tile_stored(0, part + d, dim * 4);
      _tile_stored(1, part + d + 16, dim * 4);
      if (rows > 16) {
        _tile_stored(2, part + 16 * dim + d, dim * 4);
        _tile_stored(3, part + 16 * dim + d + 16, dim * 4);
      } else if (tiles > 2) {
        _tile_stored(2, part + d + 32, dim * 4);
        _tile_stored(3, part + d + 48, dim * 4);
      }
    }
  }
};

}  // namespace

const PagedAttentionFunctions& paged_attention_bf16_amx() {
  static constexpr PagedAttentionFunctions kFunctions = functions_of<AmxProducts>("amx");
  return kFunctions;
}

}  // namespace tokamak::cpu
