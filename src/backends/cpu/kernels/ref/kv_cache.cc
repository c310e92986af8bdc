// kv_cache_write and paged_attention by their definition.

#include "backends/cpu/kernels/kv_cache.h"

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

KvCacheLayout layout_of(const NodeView& node) {
  const KvCacheLayout cache = KvCacheLayout::of(node.input_shapes[1], node.input_dtypes[1]);
  if (cache.block_size % kFragment != 0 || cache.head_dim % 2 != 0)
    fail_node(node, ErrorCode::Unsupported, "a cache of {}: the block size must be a multiple of {} and the head size even",
              to_string(node.input_shapes[1]), kFragment);
  return cache;
}

void rms_norm(std::vector<double>& x, const float* scale, double epsilon) {
  double squares = 0;
  for (double v : x) squares += v * v;
  const double inverse = 1 / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= inverse * scale[i];
}

void rotate(std::vector<double>& x, const float* cos, const float* sin, int64_t half, bool interleaved) {
  for (int64_t i = 0; i < half; ++i) {
    double &a = x[interleaved ? 2 * i : i], &b = x[interleaved ? 2 * i + 1 : i + half];
    const double first = a, second = b;
    a = first * cos[i] - second * sin[i];
    b = first * sin[i] + second * cos[i];
  }
}

RunFunction prepare_kv_cache_write(const NodeView& node) {
  const KvCacheLayout cache = layout_of(node);
  const int64_t heads = node.attrs().get_int("num_heads"), kv_heads = cache.kv_heads, dim = cache.head_dim;
  const int64_t tokens = node.input_shapes[0][0], half = node.has_input(3) ? node.input_shapes[3][1] : 0;
  const double epsilon = node.attrs().get_float("epsilon", 1e-6);
  const bool interleaved = node.attrs().get_bool("interleaved", false);
  return [=](const RunArgs& args) {
    const auto floats = [&](size_t i) {
      return i < args.inputs.size() && args.inputs[i].defined() ? args.inputs[i].data<float>() : nullptr;
    };
    const float *const qkv = floats(0), *const cos = floats(3), *const sin = floats(4);
    const int32_t* const slots = args.inputs[2].data<int32_t>();
    void* const memory = writable_cache(args);
    float* const q = args.outputs[0].data<float>();
    std::vector<double> head(dim);
    const auto store_cached = [&](int64_t at, double x) {
      if (cache.is_bf16) static_cast<BFloat16*>(memory)[at] = BFloat16(static_cast<float>(x));
      else static_cast<float*>(memory)[at] = static_cast<float>(x);
    };
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < heads + 2 * kv_heads; ++h) {
        const float* const from = qkv + (t * (heads + 2 * kv_heads) + h) * dim;
        head.assign(from, from + dim);
        const bool is_query = h < heads, is_key = !is_query && h < heads + kv_heads;
        const float* const norm = is_query ? floats(5) : is_key ? floats(6) : nullptr;
        if (norm != nullptr) rms_norm(head, norm, epsilon);
        if ((is_query || is_key) && half > 0) rotate(head, cos + t * half, sin + t * half, half, interleaved);
        if (is_query) {
          for (int64_t d = 0; d < dim; ++d) q[(t * heads + h) * dim + d] = static_cast<float>(head[d]);
        } else if (slots[t] >= 0 && slots[t] < cache.num_slots()) {
          const int64_t block = slots[t] / cache.block_size, j = slots[t] % cache.block_size;
          const int64_t plane = cache.plane(block, is_key ? 0 : 1, (h - heads) % kv_heads);
          for (int64_t d = 0; d < dim; ++d) store_cached(plane + (is_key ? cache.key(j, d) : cache.value(j, d)), head[d]);
        }
      }
  };
}

RunFunction prepare_paged_attention(const NodeView& node) {
  const KvCacheLayout cache = layout_of(node);
  const int64_t heads = node.attrs().get_int("num_heads"), group = heads / cache.kv_heads, dim = cache.head_dim;
  const int64_t tokens = node.input_shapes[0][0], seqs = node.input_shapes[2][0], blocks_per_seq = node.input_shapes[2][1];
  const double scale = node.attrs().get_float("scale", 1 / std::sqrt(static_cast<double>(dim)));
  const double softcap = node.attrs().get_float("softcap", 0);
  const int64_t window = window_of(node);
  return [=](const RunArgs& args) {
    const float* const q = args.inputs[0].data<float>();
    const void* const memory = args.inputs[1].raw();
    const auto cached = [&](int64_t at) {
      return cache.is_bf16 ? static_cast<double>(static_cast<const BFloat16*>(memory)[at]) : static_cast<const float*>(memory)[at];
    };
    float* const y = args.outputs[0].data<float>();
    std::fill_n(y, args.outputs[0].count(), 0.0f);
    std::vector<double> scores, sum(dim);
    std::vector<int64_t> keys;  // positions attended
    const auto row = [&](const StepSequence& s, int64_t position, int64_t h, const float* query, float* to) {
      const int32_t* const table = args.inputs[2].data<int32_t>() + s.index * blocks_per_seq;
      const int64_t kv_head = h / group;
      scores.clear(), keys.clear();
      double highest = -INFINITY, total = 0;
      for (int64_t p = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0; p <= position; ++p) {
        const int64_t block = table[p / cache.block_size];
        if (block < 0 || block >= cache.num_blocks) continue;
        const int64_t plane = cache.plane(block, 0, kv_head);
        double score = 0;
        for (int64_t d = 0; d < dim; ++d) score += query[d] * cached(plane + cache.key(p % cache.block_size, d));
        score *= scale;
        if (softcap > 0) score = softcap * std::tanh(score / softcap);
        scores.push_back(score), keys.push_back(p);
        if (score > highest || std::isnan(score)) highest = score;
      }
      if (keys.empty()) return;
      std::fill(sum.begin(), sum.end(), 0.0);
      for (size_t i = 0; i < keys.size(); ++i) {
        const double weight = std::exp(scores[i] - highest);
        const int64_t plane = cache.plane(table[keys[i] / cache.block_size], 1, kv_head);
        total += weight;
        for (int64_t d = 0; d < dim; ++d) sum[d] += weight * cached(plane + cache.value(keys[i] % cache.block_size, d));
      }
      for (int64_t d = 0; d < dim; ++d) to[d] = static_cast<float>(sum[d] / total);
    };
    for_each_sequence(args.inputs[4].data<int32_t>(), args.inputs[3].data<int32_t>(), seqs, tokens,
                      sequence_capacity(blocks_per_seq, cache.block_size), [&](const StepSequence& s) {
                        for (int64_t j = 0; j < s.count; ++j)
                          for (int64_t h = 0; h < heads; ++h) {
                            const int64_t at = ((s.first + j) * heads + h) * dim;
                            row(s, s.length - s.count + j, h, q + at, y + at);
                          }
                      });
  };
}

}  // namespace

KernelList kv_cache_kernels() {
  return {define("kv_cache_write", prepare_kv_cache_write), define("paged_attention", prepare_paged_attention)};
}

}  // namespace tokamak::cpu::ref
