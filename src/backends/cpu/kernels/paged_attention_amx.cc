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

  static void begin() { _tile_loadconfig(&kConfig); }
  static void end() { _tile_release(); }

  static void fill_absent(const uint32_t* const* k, int64_t f, int64_t rows, float* s) {
    if (k[f] != nullptr) return;
    for (int64_t r = 0; r < rows; ++r) store(s + r * kRow + f * kFragment, minus_inf());
  }

  // Fragments that are absent are computed from one that is present, then overwritten.
  static void scores(const uint32_t* q, const uint32_t* const* k, int64_t begin, int64_t end, int64_t rows, int64_t dim, float* s) {
    const uint32_t* present = nullptr;
    for (int64_t f = begin; f < end; ++f) present = k[f] != nullptr ? k[f] : present;
    if (present != nullptr) {
      const auto at = [&](int64_t f) { return f < end && k[f] != nullptr ? k[f] : present; };
      if (rows > 16) {
        for (int64_t f = begin; f < end; f += 2) score_rows32(q, at(f), at(f + 1), dim, s + f * kFragment);
      } else {
        for (int64_t f = begin; f < end; f += 2) score_rows16(q, at(f), at(f + 1), dim, s + f * kFragment);
      }
    }
    for (int64_t f = begin; f < end; ++f) fill_absent(k, f, rows, s);
  }
  static void score_rows32(const uint32_t* q, const uint32_t* k0, const uint32_t* k1, int64_t dim, float* s) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t w = 0; w < dim / 2; w += 16) {
      _tile_loadd(4, q + w, kRowBytes);
      _tile_loadd(6, k0 + w * kFragment, 64);
      _tile_loadd(7, k1 + w * kFragment, 64);
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
  static void score_rows16(const uint32_t* q, const uint32_t* k0, const uint32_t* k1, int64_t dim, float* s) {
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t w = 0; w < dim / 2; w += 16) {
      _tile_loadd(4, q + w, kRowBytes);
      _tile_loadd(6, k0 + w * kFragment, 64);
      _tile_loadd(7, k1 + w * kFragment, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, s, kRowBytes);
    _tile_stored(1, s + 16, kRowBytes);
  }

  static void values(const float* s, const uint32_t* const* v, int64_t begin, int64_t end, int64_t keys, int64_t rows, int64_t dim,
                     uint32_t* scratch, float* part) {
    // Two fragments that lie behind each other are a tile as they are; others, and a pair with unused slots, are copied.
    const uint32_t* pairs[kFragments / 2];
    const int64_t half_words = kFragment / 2 * dim;
    for (int64_t f = begin; f < end; f += 2) {
      pairs[f / 2] = v[f];
      if (v[f] != nullptr && v[f + 1] == v[f] + half_words && (f + 2) * kFragment <= keys) continue;
      uint32_t* const to = scratch + f * half_words;
      for (int64_t i = 0; i < 2; ++i)
        copy_values(v[f + i], std::clamp<int64_t>(keys - (f + i) * kFragment, 0, kFragment), dim, to + i * half_words);
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
      for (int64_t f = begin; f < end; f += 2) {
        const uint32_t* const x = pairs[f / 2] + d;
        const uint32_t* const w = weights + f * (kFragment / 2);
        _tile_loadd(4, w, kRowBytes);
        _tile_loadd(6, x, dim * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, x + 16, dim * 4);
        _tile_dpbf16ps(1, 4, 7);
        if (rows > 16) {
          _tile_loadd(5, w + 16 * kRow, kRowBytes);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        } else if (tiles > 2) {
          _tile_loadd(6, x + 32, dim * 4);
          _tile_dpbf16ps(2, 4, 6);
          _tile_loadd(7, x + 48, dim * 4);
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
