#pragma once
// A step of several sequences over a paged cache, for tests of kv_cache_write and paged_attention: sequences with random histories in
// random blocks; everything that no sequence owns is NaN, and table entries past a sequence's end name no block.

#include <cmath>
#include <numeric>
#include <random>

#include "base/half.h"
#include "tests/backends/cpu/ref/run_ref.h"

namespace tokamak::testing {

struct PagedCase {
  int64_t heads = 4, kv_heads = 2, dim = 64, block_size = 32;
  DType cache = DType::F32;
  // Cached tokens after the step, and how many of them are new.
  struct Sequence {
    int64_t length, count;
  };
  std::vector<Sequence> sequences = {{7, 7}};
  int64_t padding = 0;  // rows of no sequence behind the others
  int64_t half = 0;     // rotated elements / 2; 0 no rope
  bool interleaved = false, norms = false;
  double scale = 0.2, softcap = 0;
  int64_t window = 0;
  unsigned seed = 1;

  int64_t width() const { return (heads + 2 * kv_heads) * dim; }
  ir::Attrs write_attrs() const {
    return {{"num_heads", heads}, {"num_kv_heads", kv_heads}, {"head_dim", dim}, {"epsilon", 1e-5}, {"interleaved", int64_t{interleaved}}};
  }
  ir::Attrs attention_attrs() const {
    return {{"num_heads", heads}, {"num_kv_heads", kv_heads}, {"head_dim", dim},
            {"scale", scale},     {"softcap", softcap},       {"window", window}};
  }
};

inline Tensor i32(Shape shape, const std::vector<int32_t>& values) { return Tensor::of<int32_t>(std::move(shape), values); }

class PagedBatch {
 public:
  explicit PagedBatch(const PagedCase& c) : c(c), random_(c.seed) {
    int64_t longest = 1, blocks = 3;
    for (const auto& s : c.sequences) longest = std::max(longest, s.length), blocks += blocks_of(s.length);
    blocks_per_seq = blocks_of(longest) + 1;
    num_blocks = blocks;
    std::vector<int32_t> order(blocks);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    std::vector<int32_t> tables, lens, starts{0}, slots;
    size_t next = 0;
    for (const auto& s : c.sequences) {
      const size_t row = tables.size();
      for (int64_t b = 0; b < blocks_per_seq; ++b) tables.push_back(b < blocks_of(s.length) ? order[next++] : 0x7fffffff);
      std::vector<int32_t> all;
      for (int64_t p = 0; p < s.length; ++p)
        all.push_back(static_cast<int32_t>(tables[row + p / c.block_size] * c.block_size + p % c.block_size));
      slots.insert(slots.end(), all.end() - s.count, all.end());
      history_slots.push_back(all);
      lens.push_back(static_cast<int32_t>(s.length));
      starts.push_back(starts.back() + static_cast<int32_t>(s.count));
      history.push_back(floats({s.length, c.width()}));
      if (c.half > 0) angles.push_back(floats({s.length, c.half}));
    }
    tokens = starts.back() + c.padding;
    slots.resize(tokens, -1);
    const auto seqs = static_cast<int64_t>(c.sequences.size());
    block_tables = i32({seqs, blocks_per_seq}, tables);
    seq_lens = i32({seqs}, lens);
    query_starts = i32({seqs + 1}, starts);
    slot_mapping = i32({tokens}, slots);
    if (c.norms) q_norm = floats({c.dim}), k_norm = floats({c.dim});
    qkv = new_rows(history, c.width());
    if (c.half > 0) {
      std::vector<Tensor> cosines, sines;
      for (const Tensor& a : angles)
        cosines.push_back(map(a, [](float x) { return std::cos(x); })), sines.push_back(map(a, [](float x) { return std::sin(x); }));
      cos = new_rows(cosines, c.half), sin = new_rows(sines, c.half);
    }
  }

  Tensor empty_cache() const {
    Tensor t = Tensor::empty(c.cache, {num_blocks, 2, c.kv_heads, c.block_size, c.dim});
    std::memset(t.raw(), 0xff, t.size_bytes());  // NaN
    return t;
  }
  // What the step finds: all tokens but the new ones, written by the reference kernel; `whole`: those too.
  Tensor filled_cache(bool whole) const {
    Tensor cache = empty_cache();
    for (size_t s = 0; s < history.size(); ++s) {
      const int64_t count = c.sequences[s].length - (whole ? 0 : c.sequences[s].count);
      if (count == 0) continue;
      std::vector<Tensor> in{head_rows(history[s], count), cache,
                             i32({count}, {history_slots[s].begin(), history_slots[s].begin() + count})};
      in.resize(7);
      if (c.half > 0) {
        in[3] = head_rows(map(angles[s], [](float x) { return std::cos(x); }), count);
        in[4] = head_rows(map(angles[s], [](float x) { return std::sin(x); }), count);
      }
      in[5] = q_norm, in[6] = k_norm;
      run_ref("kv_cache_write", in, c.write_attrs());
    }
    return cache;
  }
  std::vector<Tensor> write_inputs(const Tensor& cache) const { return {qkv, cache, slot_mapping, cos, sin, q_norm, k_norm}; }
  std::vector<Tensor> attention_inputs(const Tensor& q, const Tensor& cache) const {
    return {q, cache, block_tables, seq_lens, query_starts};
  }

  // One head of token `p` of sequence s as the op defines it, from the raw history: h counts q, then k, then v heads.
  std::vector<double> head(size_t s, int64_t p, int64_t h) const {
    const float* from = history[s].data<float>() + p * c.width() + h * c.dim;
    std::vector<double> x(from, from + c.dim);
    const bool is_query = h < c.heads, is_key = !is_query && h < c.heads + c.kv_heads;
    if (c.norms && (is_query || is_key)) {
      double squares = 0;
      for (double v : x) squares += v * v / static_cast<double>(c.dim);
      for (int64_t d = 0; d < c.dim; ++d) x[d] *= (is_query ? q_norm : k_norm).data<float>()[d] / std::sqrt(squares + 1e-5);
    }
    if (is_query || is_key)
      for (int64_t i = 0; i < c.half; ++i) {
        const double angle = angles[s].data<float>()[p * c.half + i];
        const int64_t first = c.interleaved ? 2 * i : i, second = c.interleaved ? 2 * i + 1 : i + c.half;
        const double a = x[first], b = x[second];
        x[first] = a * std::cos(angle) - b * std::sin(angle), x[second] = a * std::sin(angle) + b * std::cos(angle);
      }
    if (!is_query && c.cache == DType::BF16)
      for (double& v : x) v = BFloat16(static_cast<float>(v));
    return x;
  }

  const PagedCase c;
  int64_t num_blocks = 0, blocks_per_seq = 0, tokens = 0;
  std::vector<Tensor> history, angles;  // a sequence each: [length, width] and [length, half]
  std::vector<std::vector<int32_t>> history_slots;
  Tensor qkv, cos, sin, q_norm, k_norm, slot_mapping, block_tables, seq_lens, query_starts;

 private:
  int64_t blocks_of(int64_t length) const { return (length + c.block_size - 1) / c.block_size; }
  Tensor floats(Shape shape) {
    std::normal_distribution<float> normal;
    Tensor t = Tensor::empty(DType::F32, std::move(shape));
    for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = normal(random_);
    return t;
  }
  template <class F>
  static Tensor map(const Tensor& x, const F& f) {
    Tensor y = Tensor::empty(DType::F32, x.shape());
    for (int64_t i = 0; i < x.count(); ++i) y.data<float>()[i] = f(x.data<float>()[i]);
    return y;
  }
  static Tensor head_rows(const Tensor& x, int64_t count) {
    Tensor y = Tensor::empty(DType::F32, {count, x.dim(1)});
    std::memcpy(y.raw(), x.raw(), y.size_bytes());
    return y;
  }
  // The new tokens' rows of all sequences; padding rows are NaN.
  Tensor new_rows(const std::vector<Tensor>& of, int64_t width) const {
    Tensor y = Tensor::empty(DType::F32, {tokens, width});
    std::memset(y.raw(), 0xff, y.size_bytes());
    float* to = y.data<float>();
    for (size_t s = 0; s < of.size(); ++s) {
      const auto& [length, count] = c.sequences[s];
      std::copy_n(of[s].data<float>() + (length - count) * width, count * width, to);
      to += count * width;
    }
    return y;
  }
  std::mt19937 random_;
};

}  // namespace tokamak::testing
