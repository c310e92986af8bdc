#pragma once
// Tiles of paged attention for one instruction set; included by paged_attention_*.cc only.
//
// A 4-byte word is an f32 or a pair of bf16. A K fragment is [dim / pair][16] words and a V fragment [16 / pair][dim], so both products are
// one loop: accumulators [rows][vectors], at each step a word of weight for each row times a vector of words (AmxProducts apart). Lanes are
// keys while scoring and elements of the head while summing values; sums run in order of position in both.

#include <cstring>

#include "backends/cpu/kernels/paged_attention.h"
#include "backends/cpu/simd.h"
#include "backends/cpu/simd_math.h"

namespace tokamak::cpu {
namespace {

constexpr int64_t kFragments = kKeyGroup / kFragment;
constexpr int64_t kRow = kMaxHeadDim + 16;  // words between rows of queries and scores; not a power of two, for the cache's sets

inline F minus_inf() { return set1(-__builtin_inff()); }

// 2^x for x <= 0, to about 2 ulp; tiny results become zero; NaN stays. A minimax fit (Lawson iteration) of (2^t - 1) / t on [-1/2, 1/2].
constexpr float kExp2[] = {0.0013264727f, 0.009671513f, 0.055507337f, 0.24022242f, 0.693146978f, 1.0f};
inline F exp2_negative(F x) {
#if defined(__AVX512F__)
  x = max_second(set1(-152.0f), x);
  const F n = round(x);
  return scale2(horner(x - n, kExp2), n);
#else
  x = max_second(set1(-126.0f), x);
  const F n = round(x);
  return select(le(x, set1(-126.0f)), zero(), horner(x - n, kExp2) * power_of_two(_mm256_cvtps_epi32(n.v)));
#endif
}
inline float exp2_negative(float x) {
  float lanes[kLanes];
  store(lanes, exp2_negative(set1(x)));
  return lanes[0];
}

struct Scratch {
  uint32_t* q;                                 // [kTileRows][kRow] words
  float* s;                                    // [kTileRows][kRow]: scores, then weights
  float *part, *sum;                           // [kTileRows][dim]: values of a group, and of all so far
  uint32_t* fragment;                          // the words of a group of V
  float *part_top, *part_total, *top, *total;  // [kTileRows]

  static int64_t bytes(int64_t dim) { return 4 * (2 * kTileRows * kRow + 2 * kTileRows * dim + kKeyGroup / 2 * dim + 4 * kTileRows); }
  Scratch(void* memory, int64_t dim) {
    auto* at = static_cast<float*>(memory);
    const auto take = [&](int64_t count) {
      float* const here = at;
      at += count;
      return here;
    };
    q = reinterpret_cast<uint32_t*>(take(kTileRows * kRow));
    s = take(kTileRows * kRow);
    part = take(kTileRows * dim), sum = take(kTileRows * dim);
    fragment = reinterpret_cast<uint32_t*>(take(kKeyGroup / 2 * dim));
    part_top = take(kTileRows), part_total = take(kTileRows), top = take(kTileRows), total = take(kTileRows);
  }
};

// ---- products ----

struct Float32 {
  static constexpr int kPair = 1, kTerms = 1;  // summed positions of a word, and words of weight for it
  static constexpr bool kBf16Weights = false;
  using Vector = F;
  static Vector load_words(const uint32_t* p) { return load(reinterpret_cast<const float*>(p)); }
  static Vector load_words(const uint32_t* p, int64_t n) { return load_n(reinterpret_cast<const float*>(p), n); }
  static F multiply_add(const uint32_t* weight, Vector x, F sum) { return fma(set1(__builtin_bit_cast(float, *weight)), x, sum); }
};

// bf16 pairs widened: the lower half of a word is the even position.
struct Widened {
  static constexpr int kPair = 2, kTerms = 2;
  static constexpr bool kBf16Weights = false;
#if defined(__AVX512F__)
  struct Vector {
    __m512i v;
  };
  static Vector load_words(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
  static Vector load_words(const uint32_t* p, int64_t n) { return {_mm512_maskz_loadu_epi32(first_lanes(n), p)}; }
  static F even(Vector x) { return {_mm512_castsi512_ps(_mm512_slli_epi32(x.v, 16))}; }
  static F odd(Vector x) { return {_mm512_castsi512_ps(_mm512_and_si512(x.v, _mm512_set1_epi32(static_cast<int>(0xffff0000))))}; }
#else
  struct Vector {
    __m256i v;
  };
  static Vector load_words(const uint32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  static Vector load_words(const uint32_t* p, int64_t n) {
    return {_mm256_maskload_epi32(reinterpret_cast<const int*>(p), first_lanes(n))};
  }
  static F even(Vector x) { return {_mm256_castsi256_ps(_mm256_slli_epi32(x.v, 16))}; }
  static F odd(Vector x) { return {_mm256_castsi256_ps(_mm256_and_si256(x.v, _mm256_set1_epi32(static_cast<int>(0xffff0000))))}; }
#endif
  static F multiply_add(const uint32_t* weight, Vector x, F sum) {
    sum = fma(set1(__builtin_bit_cast(float, weight[0])), even(x), sum);
    return fma(set1(__builtin_bit_cast(float, weight[1])), odd(x), sum);
  }
};

// sum[r][v] += weight[r][step] * x[v][step] over `steps`; x[v] advances by `stride` words.
template <class Format, int kRows, int kVecs>
inline void accumulate(F (&sum)[kRows][kVecs], const uint32_t* weights, const uint32_t* const (&x)[kVecs], int64_t stride, int64_t steps) {
  for (int64_t i = 0; i < steps; ++i) {
    typename Format::Vector words[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) words[v] = Format::load_words(x[v] + i * stride);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[r][v] = Format::multiply_add(weights + r * kRow + i * Format::kTerms, words[v], sum[r][v]);
  }
}

// Products by vectors. Rows go in blocks that fill the registers; few rows take more vectors at once instead.
template <class Format>
struct VectorProducts : Format {
  static constexpr int kBlock = kLanes == 16 ? 8 : 4;
  static constexpr int64_t kFragmentStep = 1;  // fragments that `values` takes together
  static constexpr int64_t kVectorsPerFragment = kFragment / kLanes;

  static void begin() {}
  static void end() {}

  // f(integral_constant<rows>, first row) for blocks of up to kBlock rows.
  template <class Function>
  static void each_block(int64_t rows, const Function& f) {
    int64_t r = 0;
    for (; r + kBlock <= rows; r += kBlock) f(std::integral_constant<int, kBlock>(), r);
    switch (rows - r) {
      case 1: return f(std::integral_constant<int, 1>(), r);
      case 2: return f(std::integral_constant<int, 2>(), r);
      case 3: return f(std::integral_constant<int, 3>(), r);
      case 4: return f(std::integral_constant < int, kBlock == 8 ? 4 : 1 > (), r);
      case 5: return f(std::integral_constant < int, kBlock == 8 ? 5 : 1 > (), r);
      case 6: return f(std::integral_constant < int, kBlock == 8 ? 6 : 1 > (), r);
      case 7: return f(std::integral_constant < int, kBlock == 8 ? 7 : 1 > (), r);
      default: return;
    }
  }
  static constexpr int vectors(int rows) { return 2 * rows <= kBlock ? 4 : 2; }

  template <int kRows, int kVecs>
  static void score_block(const uint32_t* q, const uint32_t* const* k, int64_t dim, float* s) {
    F sum[kRows][kVecs];
    const uint32_t* x[kVecs];
    for (int v = 0; v < kVecs; ++v) x[v] = k[v / kVectorsPerFragment] + v % kVectorsPerFragment * kLanes;
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVecs; ++v) sum[r][v] = zero();
    accumulate<Format>(sum, q, x, kFragment, dim / Format::kPair);
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVecs; ++v) store(s + r * kRow + v * kLanes, sum[r][v]);
  }

  static void scores(const uint32_t* q, const uint32_t* const* k, int64_t begin, int64_t end, int64_t rows, int64_t dim, float* s) {
    each_block(rows, [&]<int kRows>(std::integral_constant<int, kRows>, int64_t r) {
      constexpr int64_t kTogether = vectors(kRows) / kVectorsPerFragment;
      for (int64_t f = begin; f < end;) {
        float* const to = s + r * kRow + f * kFragment;
        int64_t present = 0;
        while (present < kTogether && f + present < end && k[f + present] != nullptr) ++present;
        if (present == kTogether) {
          score_block<kRows, vectors(kRows)>(q + r * kRow, k + f, dim, to);
          f += kTogether;
        } else if (present > 0) {
          score_block<kRows, kVectorsPerFragment>(q + r * kRow, k + f, dim, to);
          ++f;
        } else {
          for (int i = 0; i < kRows; ++i)
            for (int64_t v = 0; v < kFragment; v += kLanes) store(to + i * kRow + v, minus_inf());
          ++f;
        }
      }
    });
  }

  template <int kRows, int kVecs>
  static void value_block(const uint32_t* weights, const uint32_t* const* v, int64_t begin, int64_t end, int64_t keys, int64_t dim,
                          int64_t at, float* part) {
    F sum[kRows][kVecs];
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kVecs; ++c) sum[r][c] = zero();
    for (int64_t f = begin; f < end; ++f) {
      if (v[f] == nullptr) continue;
      const uint32_t* x[kVecs];
      for (int c = 0; c < kVecs; ++c) x[c] = v[f] + at + c * kLanes;
      const int64_t count = std::min(kFragment, keys - f * kFragment);
      accumulate<Format>(sum, weights + f * (kFragment / Format::kPair * Format::kTerms), x, dim,
                         (count + Format::kPair - 1) / Format::kPair);
    }
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kVecs; ++c) store(part + r * dim + at + c * kLanes, sum[r][c]);
  }
  // The last elements of a head that is no whole number of vectors.
  static void value_rest(const uint32_t* weights, const uint32_t* const* v, int64_t begin, int64_t end, int64_t keys, int64_t dim,
                         int64_t at, float* part) {
    F sum = zero();
    for (int64_t f = begin; f < end; ++f) {
      if (v[f] == nullptr) continue;
      const int64_t count = std::min(kFragment, keys - f * kFragment);
      const uint32_t* const w = weights + f * (kFragment / Format::kPair * Format::kTerms);
      for (int64_t i = 0; i * Format::kPair < count; ++i)
        sum = Format::multiply_add(w + i * Format::kTerms, Format::load_words(v[f] + i * dim + at, dim - at), sum);
    }
    store_n(part + at, sum, dim - at);
  }

  // part[row] = the weighted sum of values of keys [begin * 16, keys).
  static void values(const float* s, const uint32_t* const* v, int64_t begin, int64_t end, int64_t keys, int64_t rows, int64_t dim,
                     uint32_t*, float* part) {
    const auto* const weights = reinterpret_cast<const uint32_t*>(s);
    each_block(rows, [&]<int kRows>(std::integral_constant<int, kRows>, int64_t r) {
      constexpr int kVecs = vectors(kRows);
      const uint32_t* const w = weights + r * kRow;
      float* const to = part + r * dim;
      int64_t d = 0;
      for (; d + kVecs * kLanes <= dim; d += kVecs * kLanes) value_block<kRows, kVecs>(w, v, begin, end, keys, dim, d, to);
      for (; d + kLanes <= dim; d += kLanes) value_block<kRows, 1>(w, v, begin, end, keys, dim, d, to);
      if (d < dim)
        for (int i = 0; i < kRows; ++i) value_rest(w + i * kRow, v, begin, end, keys, dim, d, to + i * dim);
    });
  }
};

// ---- one group of keys ----

// Stores of weights, f32 or bf16; vector `v` of a row. bf16 weights take half the room of the scores they replace, in front of them.
template <class Products>
inline void store_weights(float* row, int64_t v, F p) {
  if constexpr (Products::kBf16Weights) store_bfloat16(reinterpret_cast<uint16_t*>(row) + v * kLanes, p);
  else store(row + v * kLanes, p);
}

// Scores of a row become weights 2^(s - max). Keys outside [first, end) get the weight 0; `begin` and `limit` say what `values` will read.
template <class Products>
inline void weigh(float* row, int64_t first, int64_t end, int64_t begin, int64_t limit, float softcap, float& top, float& total) {
  const int64_t vector_begin = begin / kLanes, vector_limit = limit / kLanes;
  if (end <= first) {
    for (int64_t v = vector_begin; v < vector_limit; ++v) store_weights<Products>(row, v, zero());
    top = -__builtin_inff(), total = 0;
    return;
  }
  const int64_t v0 = first / kLanes, v1 = (end + kLanes - 1) / kLanes;
  if (softcap > 0) {
    const F cap = set1(softcap);
    for (int64_t v = v0; v < v1; ++v) store(row + v * kLanes, cap * tanh(load(row + v * kLanes)));
  }
  if (end % kLanes != 0) {
    float* const at = row + (v1 - 1) * kLanes;
    store(at, keep_first(load(at), end % kLanes, minus_inf()));
  }
  if (first % kLanes != 0) {
    float* const at = row + v0 * kLanes;
    store(at, keep_first(minus_inf(), first % kLanes, load(at)));
  }
  F high = load(row + v0 * kLanes);
  for (int64_t v = v0 + 1; v < v1; ++v) high = max_second(high, load(row + v * kLanes));
  top = largest(high);
  // A row without any key keeps -inf as its maximum; subtracting 0 then gives weights of 0 and not NaN.
  const F shift = set1(top == -__builtin_inff() ? 0 : top);
  for (int64_t v = vector_begin; v < v0; ++v) store_weights<Products>(row, v, zero());
  F sums[2] = {zero(), zero()};
  for (int64_t v = v0; v < v1; ++v) {
    const F p = exp2_negative(load(row + v * kLanes) - shift);
    sums[v & 1] = sums[v & 1] + p;
    store_weights<Products>(row, v, p);
  }
  for (int64_t v = v1; v < vector_limit; ++v) store_weights<Products>(row, v, zero());
  total = sum(sums[0] + sums[1]);
}

// Queries times the scale, which takes the scores to powers of two; or, under a soft cap, to its argument.
template <class Products>
void pack_queries(const PagedAttention& a, const PagedTile& t, uint32_t* q) {
  constexpr float kLog2e = 1.44269504088896341f;
  const F scale = set1(a.softcap > 0 ? a.scale / a.softcap : a.scale * kLog2e);
  const int64_t dim = a.dim();
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t i = t.row + r;
    const float* const from = a.q + ((t.sequence.first + i / a.group) * a.heads + t.kv_head * a.group + i % a.group) * dim;
    uint32_t* const to = q + r * kRow;
    for (int64_t d = 0; d < dim; d += kLanes) {
      const F x = (dim - d >= kLanes ? load(from + d) : load_n(from + d, dim - d)) * scale;
      if constexpr (Products::kBf16Weights) store_bfloat16(reinterpret_cast<uint16_t*>(to) + d, x);
      else store(reinterpret_cast<float*>(to) + d, x);
    }
  }
}

// Where the fragments of a key group lie; null for those that no row needs and those of blocks that do not exist.
struct GroupFragments {
  const uint32_t *k[kFragments], *v[kFragments];
};

// The values of `keys` tokens of a fragment and zeros behind them: a weight of 0 times what an unused slot holds may be NaN.
inline void copy_values(const uint32_t* from, int64_t keys, int64_t dim, uint32_t* to) {
  int64_t whole = from == nullptr ? 0 : keys / 2;
  if (whole > 0) std::memcpy(to, from, static_cast<size_t>(whole * dim) * 4);
  if (from != nullptr && keys % 2 != 0) {
    for (int64_t d = 0; d < dim; ++d) to[whole * dim + d] = from[whole * dim + d] & 0xffff;
    ++whole;
  }
  std::memset(to + whole * dim, 0, static_cast<size_t>((kFragment / 2 - whole) * dim) * 4);
}

template <class Products>
void attend_group(const PagedAttention& a, const PagedTile& t, int64_t group, const Scratch& scratch) {
  const int64_t base = group * kKeyGroup, dim = a.dim();
  const int64_t first = std::max<int64_t>(t.first_key(a) - base, 0), end = std::min(t.end_key(a) - base, kKeyGroup);
  const int64_t needed = first / kFragment, needed_end = (end + kFragment - 1) / kFragment;
  constexpr int64_t kStep = Products::kFragmentStep;
  const int64_t f0 = needed / kStep * kStep, f1 = (needed_end + kStep - 1) / kStep * kStep;

  GroupFragments at;
  const KvCacheLayout& layout = a.layout;
  const int64_t fragment_words = layout.fragment_elements() / Products::kPair, value_plane = layout.plane(0, 1, 0) / Products::kPair;
  const int32_t* const table = a.block_tables + t.sequence.index * a.blocks_per_seq;
  for (int64_t f = f0; f < f1; ++f) {
    at.k[f] = at.v[f] = nullptr;
    if (f < needed || f >= needed_end) continue;
    const int64_t key = base + f * kFragment, block = table[key / layout.block_size];
    if (block < 0 || block >= layout.num_blocks) continue;
    at.k[f] = static_cast<const uint32_t*>(a.cache) + layout.plane(block, 0, t.kv_head) / Products::kPair +
              key % layout.block_size / kFragment * fragment_words;
    at.v[f] = at.k[f] + value_plane;
  }

  Products::scores(scratch.q, at.k, f0, f1, t.rows, dim, scratch.s);
  constexpr float kLog2e = 1.44269504088896341f;
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t position = t.position(r, a.group);
    const int64_t row_first = std::max(a.window > 0 ? position - a.window + 1 - base : 0, f0 * kFragment);
    const int64_t row_end = std::min(position + 1 - base, end);
    weigh<Products>(scratch.s + r * kRow, row_first, row_end, f0 * kFragment, f1 * kFragment, a.softcap * kLog2e, scratch.part_top[r],
                    scratch.part_total[r]);
  }
  if constexpr (kStep == 1 && Products::kPair == 2) {  // an odd number of keys ends inside a pair
    if (end % 2 != 0 && at.v[f1 - 1] != nullptr) {
      copy_values(at.v[f1 - 1], end - (f1 - 1) * kFragment, dim, scratch.fragment);
      at.v[f1 - 1] = scratch.fragment;
    }
  }
  Products::values(scratch.s, at.v, f0, f1, end, t.rows, dim, scratch.fragment, scratch.part);
}

// ---- merging groups ----

inline void reset(const PagedTile& t, int64_t dim, const Scratch& scratch) {
  for (int64_t r = 0; r < t.rows; ++r) scratch.top[r] = -__builtin_inff(), scratch.total[r] = 0;
  std::memset(scratch.sum, 0, static_cast<size_t>(t.rows * dim) * 4);
}

inline void merge_group(int64_t rows, int64_t dim, const float* top, const float* total, const float* part, const Scratch& scratch) {
  for (int64_t r = 0; r < rows; ++r) {
    if (top[r] == -__builtin_inff()) continue;
    const float high = top[r] > scratch.top[r] ? top[r] : scratch.top[r];
    const float old_factor = exp2_negative(scratch.top[r] - high), new_factor = exp2_negative(top[r] - high);
    scratch.top[r] = high;
    scratch.total[r] = scratch.total[r] * old_factor + total[r] * new_factor;
    const F a = set1(old_factor), b = set1(new_factor);
    float* const to = scratch.sum + r * dim;
    const float* const from = part + r * dim;
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) store(to + d, fma(load(from + d), b, load(to + d) * a));
    if (d < dim) store_n(to + d, fma(load_n(from + d, dim - d), b, load_n(to + d, dim - d) * a), dim - d);
  }
}

inline void finish(const PagedAttention& a, const PagedTile& t, const Scratch& scratch) {
  const int64_t dim = a.dim();
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t i = t.row + r;
    const F inverse = set1(scratch.total[r] == 0 ? 0 : 1 / scratch.total[r]);
    const float* const from = scratch.sum + r * dim;
    float* const to = a.out + ((t.sequence.first + i / a.group) * a.heads + t.kv_head * a.group + i % a.group) * dim;
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) store(to + d, load(from + d) * inverse);
    if (d < dim) store_n(to + d, load_n(from + d, dim - d) * inverse, dim - d);
  }
}

template <class Products>
void run_tile(const PagedAttention& a, const PagedTile& t, void* memory) {
  const Scratch scratch(memory, a.dim());
  reset(t, a.dim(), scratch);
  Products::begin();
  pack_queries<Products>(a, t, scratch.q);
  for (int64_t group = t.first_group(a); group < t.end_group(a); ++group) {
    attend_group<Products>(a, t, group, scratch);
    merge_group(t.rows, a.dim(), scratch.part_top, scratch.part_total, scratch.part, scratch);
  }
  Products::end();
  finish(a, t, scratch);
}

template <class Products>
void run_partial(const PagedAttention& a, const PagedTile& t, int64_t group, float* partial, void* memory) {
  const Scratch scratch(memory, a.dim());
  Products::begin();
  pack_queries<Products>(a, t, scratch.q);
  attend_group<Products>(a, t, group, scratch);
  Products::end();
  std::memcpy(partial, scratch.part_top, static_cast<size_t>(t.rows) * 4);
  std::memcpy(partial + t.rows, scratch.part_total, static_cast<size_t>(t.rows) * 4);
  std::memcpy(partial + 2 * t.rows, scratch.part, static_cast<size_t>(t.rows * a.dim()) * 4);
}

void run_merge(const PagedAttention& a, const PagedTile& t, const float* partials, int64_t count, void* memory) {
  const Scratch scratch(memory, a.dim());
  reset(t, a.dim(), scratch);
  for (int64_t i = 0; i < count; ++i, partials += partial_floats(t.rows, a.dim()))
    merge_group(t.rows, a.dim(), partials, partials + t.rows, partials + 2 * t.rows, scratch);
  finish(a, t, scratch);
}

template <class Products>
constexpr PagedAttentionFunctions functions_of(const char* name) {
  return {name, Scratch::bytes, run_tile<Products>, run_partial<Products>, run_merge};
}

}  // namespace
}  // namespace tokamak::cpu
