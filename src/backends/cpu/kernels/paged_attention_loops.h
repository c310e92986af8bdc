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

// Of each row: the greatest score (a power of two's exponent), and sums of weights and of weighted values relative to it.
struct Sums {
  float *top, *total;  // [kTileRows]
  float* values;       // [kTileRows][dim]
};

struct Scratch {
  uint32_t* q;         // [kTileRows][kRow] words
  float* s;            // [kTileRows][kRow]: scores, then weights
  uint32_t* fragment;  // the words of a group of V
  Sums part, all;      // of a group, and of those so far

  static int64_t bytes(int64_t dim) { return 4 * (2 * kTileRows * kRow + 2 * kTileRows * (dim + 2) + kKeyGroup / 2 * dim); }
  Scratch(void* memory, int64_t dim) {
    auto* at = static_cast<float*>(memory);
    const auto take = [&](int64_t count) {
      float* const here = at;
      at += count;
      return here;
    };
    q = reinterpret_cast<uint32_t*>(take(kTileRows * kRow));
    s = take(kTileRows * kRow);
    fragment = reinterpret_cast<uint32_t*>(take(kKeyGroup / 2 * dim));
    for (Sums* sums : {&part, &all}) sums->top = take(kTileRows), sums->total = take(kTileRows), sums->values = take(kTileRows * dim);
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

// bf16 to L1; f32, twice as much, to L2 (each measured the faster).
template <int kPair>
inline void prefetch(const uint32_t* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), kPair == 2 ? _MM_HINT_T0 : _MM_HINT_T1);
}

// sum[r][v] += weight[r][step] * x[v][step] over `steps`; x[v] advances by `stride` words. fetch(step) asks for memory needed later.
template <class Format, int kRows, int kVecs, class Fetch>
inline void accumulate(F (&sum)[kRows][kVecs], const uint32_t* weights, const uint32_t* const (&x)[kVecs], int64_t stride, int64_t steps,
                       const Fetch& fetch) {
  for (int64_t i = 0; i < steps; ++i) {
    fetch(i);
    typename Format::Vector words[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) words[v] = Format::load_words(x[v] + i * stride);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[r][v] = Format::multiply_add(weights + r * kRow + i * Format::kTerms, words[v], sum[r][v]);
  }
}

// A group of keys as fragments [begin, end), of which those of blocks that do not exist, or that no row needs, are null. `k_ahead` and
// `v_ahead` tell what memory to ask for while working on a fragment: what is needed kAhead fragments later, keys and then values, then the
// keys of the next group. Never null.
struct KeyGroup {
  const uint32_t *k[kFragments], *v[kFragments], *k_ahead[kFragments], *v_ahead[kFragments];
  int64_t begin = 0, end = 0;
  int64_t keys = 0;  // values of keys past this are not to be touched
};
constexpr int64_t kAhead = 4;

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

  template <int kRows, int kVecs, class Fetch>
  static void score_block(const uint32_t* q, const uint32_t* const* k, int64_t dim, float* s, const Fetch& fetch) {
    F sum[kRows][kVecs];
    const uint32_t* x[kVecs];
    for (int v = 0; v < kVecs; ++v) x[v] = k[v / kVectorsPerFragment] + v % kVectorsPerFragment * kLanes;
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVecs; ++v) sum[r][v] = zero();
    accumulate<Format>(sum, q, x, kFragment, dim / Format::kPair, fetch);
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVecs; ++v) store(s + r * kRow + v * kLanes, sum[r][v]);
  }
  // A step reads a line of each fragment.
  template <int kRows, int kVecs>
  static void score_block(const uint32_t* q, const KeyGroup& group, int64_t f, int64_t dim, float* s, bool fetches) {
    if (!fetches) return score_block<kRows, kVecs>(q, group.k + f, dim, s, [](int64_t) {});
    score_block<kRows, kVecs>(q, group.k + f, dim, s, [&](int64_t step) {
      for (int64_t i = 0; i < kVecs / kVectorsPerFragment; ++i) prefetch<Format::kPair>(group.k_ahead[f + i] + step * kFragment);
    });
  }

  // s[row][key] for the keys of all fragments.
  static void scores(const uint32_t* q, const KeyGroup& group, int64_t rows, int64_t dim, float* s) {
    each_block(rows, [&]<int kRows>(std::integral_constant<int, kRows>, int64_t r) {
      constexpr int64_t kTogether = vectors(kRows) / kVectorsPerFragment;
      for (int64_t f = group.begin; f < group.end;) {
        float* const to = s + r * kRow + f * kFragment;
        int64_t present = 0;
        while (present < kTogether && f + present < group.end && group.k[f + present] != nullptr) ++present;
        if (present == kTogether) {
          score_block<kRows, vectors(kRows)>(q + r * kRow, group, f, dim, to, r == 0);
          f += kTogether;
        } else if (present > 0) {
          score_block<kRows, kVectorsPerFragment>(q + r * kRow, group, f, dim, to, r == 0);
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
  static void value_block(const uint32_t* weights, const KeyGroup& group, int64_t dim, int64_t at, float* part, bool fetches) {
    F sum[kRows][kVecs];
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kVecs; ++c) sum[r][c] = zero();
    for (int64_t f = group.begin; f < group.end; ++f) {
      if (group.v[f] == nullptr) continue;
      const uint32_t* x[kVecs];
      for (int c = 0; c < kVecs; ++c) x[c] = group.v[f] + at + c * kLanes;
      const int64_t count = std::min(kFragment, group.keys - f * kFragment), steps = (count + Format::kPair - 1) / Format::kPair;
      const uint32_t* const w = weights + f * (kFragment / Format::kPair * Format::kTerms);
      if (fetches) {
        const uint32_t* const ahead = group.v_ahead[f];
        accumulate<Format>(sum, w, x, dim, steps, [&](int64_t step) {
          for (int64_t d = 0; d < dim; d += 16) prefetch<Format::kPair>(ahead + step * dim + d);
        });
      } else {
        accumulate<Format>(sum, w, x, dim, steps, [](int64_t) {});
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kVecs; ++c) store(part + r * dim + at + c * kLanes, sum[r][c]);
  }
  // The last elements of a head that is no whole number of vectors.
  static void value_rest(const uint32_t* weights, const KeyGroup& group, int64_t dim, int64_t at, float* part) {
    F sum = zero();
    for (int64_t f = group.begin; f < group.end; ++f) {
      if (group.v[f] == nullptr) continue;
      const int64_t count = std::min(kFragment, group.keys - f * kFragment);
      const uint32_t* const w = weights + f * (kFragment / Format::kPair * Format::kTerms);
      for (int64_t i = 0; i * Format::kPair < count; ++i)
        sum = Format::multiply_add(w + i * Format::kTerms, Format::load_words(group.v[f] + i * dim + at, dim - at), sum);
    }
    store_n(part + at, sum, dim - at);
  }

  // part[row] = the sum of values, weighted by s.
  static void values(const float* s, const KeyGroup& group, int64_t rows, int64_t dim, uint32_t*, float* part) {
    const auto* const weights = reinterpret_cast<const uint32_t*>(s);
    each_block(rows, [&]<int kRows>(std::integral_constant<int, kRows>, int64_t r) {
      constexpr int kVecs = vectors(kRows);
      const uint32_t* const w = weights + r * kRow;
      float* const to = part + r * dim;
      int64_t d = 0;
      for (; d + kVecs * kLanes <= dim; d += kVecs * kLanes) value_block<kRows, kVecs>(w, group, dim, d, to, r == 0 && d == 0);
      for (; d + kLanes <= dim; d += kLanes) value_block<kRows, 1>(w, group, dim, d, to, false);
      if (d < dim)
        for (int i = 0; i < kRows; ++i) value_rest(w + i * kRow, group, dim, d, to + i * dim);
    });
  }
};

// ---- one group of keys ----

// Vector `v` of a row of weights. bf16 ones take half the room of the scores they replace, in front of them.
template <class Products>
inline void store_weights(float* row, int64_t v, F p) {
  if constexpr (Products::kBf16Weights) Products::store_bf16(reinterpret_cast<uint16_t*>(row) + v * kLanes, p);
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
  F high[2] = {load(row + v0 * kLanes), load(row + (v1 - 1) * kLanes)};
  int64_t v = v0 + 1;
  for (; v + 2 <= v1; v += 2)
    high[0] = max_second(high[0], load(row + v * kLanes)), high[1] = max_second(high[1], load(row + (v + 1) * kLanes));
  if (v < v1) high[0] = max_second(high[0], load(row + v * kLanes));
  top = largest(max_second(high[0], high[1]));
  // A row without any key keeps -inf as its maximum; subtracting 0 then gives weights of 0 and not NaN.
  const F shift = set1(top == -__builtin_inff() ? 0 : top);
  for (v = vector_begin; v < v0; ++v) store_weights<Products>(row, v, zero());
  const auto exponential = [&](int64_t i) {
    const F p = exp2_negative(load(row + i * kLanes) - shift);
    store_weights<Products>(row, i, p);
    return p;
  };
  F even = zero(), odd = zero();  // by vectors counted from the group's first key: the order of additions is the same in every tile
  if (v % 2 != 0) odd = exponential(v++);
  for (; v + 2 <= v1; v += 2) even = even + exponential(v), odd = odd + exponential(v + 1);
  if (v < v1) even = even + exponential(v++);
  for (; v < vector_limit; ++v) store_weights<Products>(row, v, zero());
  total = sum(even + odd);
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
      if constexpr (Products::kBf16Weights) Products::store_bf16(reinterpret_cast<uint16_t*>(to) + d, x);
      else store(reinterpret_cast<float*>(to) + d, x);
    }
  }
}

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

// Keys [base + first, base + end) of a tile.
template <class Products>
KeyGroup locate(const PagedAttention& a, const PagedTile& t, int64_t base, int64_t first, int64_t end) {
  const KvCacheLayout& layout = a.layout;
  const int64_t fragment_words = layout.fragment_elements() / Products::kPair, value_plane = layout.plane(0, 1, 0) / Products::kPair;
  const int32_t* const table = a.block_tables + t.sequence.index * a.blocks_per_seq;
  const auto keys_of = [&](int64_t key) -> const uint32_t* {
    const int64_t block = table[key / layout.block_size];
    if (block < 0 || block >= layout.num_blocks) return nullptr;
    return static_cast<const uint32_t*>(a.cache) + layout.plane(block, 0, t.kv_head) / Products::kPair +
           key % layout.block_size / kFragment * fragment_words;
  };
  KeyGroup group;
  constexpr int64_t kStep = Products::kFragmentStep;
  const int64_t needed = first / kFragment, needed_end = (end + kFragment - 1) / kFragment;
  group.begin = needed / kStep * kStep, group.end = (needed_end + kStep - 1) / kStep * kStep, group.keys = end;

  const uint32_t* order[2 * kFragments + kAhead];  // as they are read
  int64_t count = 0;
  for (int64_t f = group.begin; f < group.end; ++f) {
    group.k[f] = f < needed || f >= needed_end ? nullptr : keys_of(base + f * kFragment);
    group.v[f] = group.k[f] == nullptr ? nullptr : group.k[f] + value_plane;
    order[count++] = group.k[f];
  }
  for (int64_t f = group.begin; f < group.end; ++f) order[count++] = group.v[f];
  for (int64_t i = 0; i < kAhead; ++i) {
    const int64_t key = base + kKeyGroup + i * kFragment;
    order[count++] = key < t.end_key(a) ? keys_of(key) : nullptr;
  }
  const int64_t fragments = group.end - group.begin;
  for (int64_t i = 0; i < 2 * fragments; ++i) {
    const void* const ahead = order[i + kAhead] != nullptr ? order[i + kAhead] : order[i] != nullptr ? order[i] : a.cache;
    (i < fragments ? group.k_ahead[group.begin + i] : group.v_ahead[group.begin + i - fragments]) = static_cast<const uint32_t*>(ahead);
  }
  return group;
}

template <class Products>
void attend_group(const PagedAttention& a, const PagedTile& t, int64_t index, const Scratch& scratch, const Sums& to) {
  const int64_t base = index * kKeyGroup, dim = a.dim();
  const int64_t first = std::max<int64_t>(t.first_key(a) - base, 0), end = std::min(t.end_key(a) - base, kKeyGroup);
  KeyGroup group = locate<Products>(a, t, base, first, end);
  Products::scores(scratch.q, group, t.rows, dim, scratch.s);
  constexpr float kLog2e = 1.44269504088896341f;
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t position = t.position(r, a.group);
    const int64_t row_first = std::max(a.window > 0 ? position - a.window + 1 - base : 0, group.begin * kFragment);
    const int64_t row_end = std::min(position + 1 - base, end);
    weigh<Products>(scratch.s + r * kRow, row_first, row_end, group.begin * kFragment, group.end * kFragment, a.softcap * kLog2e, to.top[r],
                    to.total[r]);
  }
  if constexpr (Products::kFragmentStep == 1 && Products::kPair == 2) {  // an odd number of keys ends inside a pair
    const int64_t last = group.end - 1;
    if (end % 2 != 0 && group.v[last] != nullptr) {
      copy_values(group.v[last], end - last * kFragment, dim, scratch.fragment);
      group.v[last] = scratch.fragment;
    }
  }
  Products::values(scratch.s, group, t.rows, dim, scratch.fragment, to.values);
}

// ---- merging groups ----

inline void merge_group(int64_t rows, int64_t dim, const Sums& from, const Sums& to) {
  float old_factors[kTileRows], new_factors[kTileRows];
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t n = std::min(rows - r, kLanes);
    const F old_top = load_n(to.top + r, n), new_top = load_n(from.top + r, n), high = max_second(old_top, new_top);
    const F shift = select(eq(high, minus_inf()), zero(), high);
    const F a = exp2_negative(old_top - shift), b = exp2_negative(new_top - shift);
    store(old_factors + r, a), store(new_factors + r, b);
    store_n(to.top + r, high, n);
    store_n(to.total + r, fma(load_n(from.total + r, n), b, load_n(to.total + r, n) * a), n);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const F a = set1(old_factors[r]), b = set1(new_factors[r]);
    float* const y = to.values + r * dim;
    const float* const x = from.values + r * dim;
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) store(y + d, fma(load(x + d), b, load(y + d) * a));
    if (d < dim) store_n(y + d, fma(load_n(x + d, dim - d), b, load_n(y + d, dim - d) * a), dim - d);
  }
}

inline void finish(const PagedAttention& a, const PagedTile& t, const Sums& sums) {
  const int64_t dim = a.dim();
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t i = t.row + r;
    const F inverse = set1(sums.total[r] == 0 ? 0 : 1 / sums.total[r]);
    const float* const from = sums.values + r * dim;
    float* const to = a.out + ((t.sequence.first + i / a.group) * a.heads + t.kv_head * a.group + i % a.group) * dim;
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) store(to + d, load(from + d) * inverse);
    if (d < dim) store_n(to + d, load_n(from + d, dim - d) * inverse, dim - d);
  }
}

template <class Products>
void run_tile(const PagedAttention& a, const PagedTile& t, void* memory) {
  const Scratch scratch(memory, a.dim());
  const int64_t begin = t.first_group(a), end = t.end_group(a);
  if (begin == end)
    std::memset(scratch.all.total, 0, kTileRows * 4), std::memset(scratch.all.values, 0, static_cast<size_t>(t.rows * a.dim()) * 4);
  Products::begin();
  pack_queries<Products>(a, t, scratch.q);
  for (int64_t group = begin; group < end; ++group) {
    attend_group<Products>(a, t, group, scratch, group == begin ? scratch.all : scratch.part);
    if (group != begin) merge_group(t.rows, a.dim(), scratch.part, scratch.all);
  }
  Products::end();
  finish(a, t, scratch.all);
}

template <class Products>
void run_partial(const PagedAttention& a, const PagedTile& t, int64_t group, float* partial, void* memory) {
  const Scratch scratch(memory, a.dim());
  Products::begin();
  pack_queries<Products>(a, t, scratch.q);
  attend_group<Products>(a, t, group, scratch, scratch.part);
  Products::end();
  std::memcpy(partial, scratch.part.top, static_cast<size_t>(t.rows) * 4);
  std::memcpy(partial + t.rows, scratch.part.total, static_cast<size_t>(t.rows) * 4);
  std::memcpy(partial + 2 * t.rows, scratch.part.values, static_cast<size_t>(t.rows * a.dim()) * 4);
}

void run_merge(const PagedAttention& a, const PagedTile& t, float* partials, int64_t count) {
  const auto sums_at = [&](int64_t i) {
    float* const at = partials + i * partial_floats(t.rows, a.dim());
    return Sums{at, at + t.rows, at + 2 * t.rows};
  };
  for (int64_t i = 1; i < count; ++i) merge_group(t.rows, a.dim(), sums_at(i), sums_at(0));
  finish(a, t, sums_at(0));
}

template <class Products>
constexpr PagedAttentionFunctions functions_of(const char* name) {
  return {name, Scratch::bytes, run_tile<Products>, run_partial<Products>, run_merge};
}

}  // namespace
}  // namespace tokamak::cpu
