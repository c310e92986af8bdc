// kv_cache_write, paged_attention and both as one, by their definition.

#include "backends/cpu/kernels/kv_cache.h"

#include "backends/cpu/kernels/ref/ref.h"
#include "base/small_float.h"

namespace tokamak::cpu::ref {
namespace {

// Numbers as tensors hold them; an f8e4m3fn is stored divided by its scale, and saturates.
double load(DType dtype, const void* from, int64_t i, double scale = 1) {
  switch (dtype) {
    case DType::F32: return static_cast<const float*>(from)[i];
    case DType::F16: return static_cast<const Half*>(from)[i];
    case DType::BF16: return static_cast<const BFloat16*>(from)[i];
    default: return small_float_to_float(dtype, static_cast<const uint8_t*>(from)[i]) * scale;
  }
}
void store_at(DType dtype, void* to, int64_t i, double x, double scale = 1) {
  const auto value = static_cast<float>(x);
  switch (dtype) {
    case DType::F32: static_cast<float*>(to)[i] = value; break;
    case DType::F16: static_cast<Half*>(to)[i] = Half(value); break;
    case DType::BF16: static_cast<BFloat16*>(to)[i] = BFloat16(value); break;
    default: static_cast<uint8_t*>(to)[i] = float_to_small_float(dtype, static_cast<float>(x / scale));
  }
}

// An optional tensor of numbers.
struct Numbers {
  DType dtype = DType::F32;
  const void* data = nullptr;
  Numbers(const RunArgs& args, size_t i) {
    if (i < args.inputs.size() && args.inputs[i].defined()) dtype = args.inputs[i].dtype(), data = args.inputs[i].raw();
  }
  explicit operator bool() const { return data != nullptr; }
  double operator[](int64_t i) const { return load(dtype, data, i); }
};

KvCacheLayout layout_of(const NodeView& node) {
  const KvCacheLayout cache = KvCacheLayout::of(node.input_shapes[1], node.input_dtypes[1]);
  if (cache.block_size % kFragment != 0 || cache.head_dim % 2 != 0)
    fail_node(node, ErrorCode::Unsupported, "a cache of {}: the block size must be a multiple of {} and the head size even",
              to_string(node.input_shapes[1]), kFragment);
  return cache;
}

void rms_norm(std::vector<double>& x, const Numbers& scale, double epsilon) {
  double squares = 0;
  for (double v : x) squares += v * v;
  const double inverse = 1 / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= inverse * scale[i];
}

void rotate(std::vector<double>& x, const Numbers& cos, const Numbers& sin, int64_t row, int64_t half, bool interleaved) {
  for (int64_t i = 0; i < half; ++i) {
    double &a = x[interleaved ? 2 * i : i], &b = x[interleaved ? 2 * i + 1 : i + half];
    const double first = a, second = b;
    const double c = cos[row * half + i], s = sin[row * half + i];
    a = first * c - second * s;
    b = first * s + second * c;
  }
}

// Of kv_cache_write's arguments, for a node that has its attributes, qkv and cache.
RunFunction prepare_write(const NodeView& node, int64_t half) {
  const KvCacheLayout cache = layout_of(node);
  const int64_t heads = node.attrs().get_int("num_heads"), kv_heads = cache.kv_heads, dim = cache.head_dim;
  const int64_t tokens = node.input_shapes[0][0];
  const double epsilon = node.attrs().get_float("epsilon", 1e-6);
  const bool interleaved = node.attrs().get_bool("interleaved", false);
  const double scales[2] = {node.attrs().get_float("k_scale", 1), node.attrs().get_float("v_scale", 1)};
  return [=](const RunArgs& args) {
    const Numbers qkv(args, 0), cos(args, 3), sin(args, 4), q_norm(args, 5), k_norm(args, 6);
    const int32_t* const slots = args.inputs[2].data<int32_t>();
    void* const memory = writable_cache(args);
    const DType cached = args.inputs[1].dtype();
    Tensor& q = args.outputs[0];
    std::vector<double> head(dim);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < heads + 2 * kv_heads; ++h) {
        for (int64_t d = 0; d < dim; ++d) head[d] = qkv[(t * (heads + 2 * kv_heads) + h) * dim + d];
        const bool is_query = h < heads, is_key = !is_query && h < heads + kv_heads;
        const Numbers& norm = is_query ? q_norm : k_norm;
        if ((is_query || is_key) && norm) rms_norm(head, norm, epsilon);
        if ((is_query || is_key) && half > 0) rotate(head, cos, sin, t, half, interleaved);
        if (is_query) {
          for (int64_t d = 0; d < dim; ++d) store_at(q.dtype(), q.raw(), (t * heads + h) * dim + d, head[d]);
        } else if (slots[t] >= 0 && slots[t] < cache.num_slots()) {
          const int64_t block = slots[t] / cache.block_size, j = slots[t] % cache.block_size;
          const int64_t plane = cache.plane(block, is_key ? 0 : 1, (h - heads) % kv_heads);
          for (int64_t d = 0; d < dim; ++d)
            store_at(cached, memory, plane + (is_key ? cache.key(j, d) : cache.value(j, d)), head[d], scales[is_key ? 0 : 1]);
        }
      }
  };
}

RunFunction prepare_kv_cache_write(const NodeView& node) { return prepare_write(node, node.has_input(3) ? node.input_shapes[3][1] : 0); }

// Of paged_attention's arguments, for a node that has its attributes and cache.
RunFunction prepare_attention(const NodeView& node, const Shape& tables) {
  const KvCacheLayout cache = layout_of(node);
  const int64_t heads = node.attrs().get_int("num_heads"), group = heads / cache.kv_heads, dim = cache.head_dim;
  const int64_t tokens = node.input_shapes[0][0], seqs = tables[0], blocks_per_seq = tables[1];
  const double scale = node.attrs().get_float("scale", 1 / std::sqrt(static_cast<double>(dim)));
  const double softcap = node.attrs().get_float("softcap", 0);
  const double k_scale = node.attrs().get_float("k_scale", 1), v_scale = node.attrs().get_float("v_scale", 1);
  const int64_t window = window_of(node);
  return [=](const RunArgs& args) {
    const Numbers q(args, 0);
    const void* const memory = args.inputs[1].raw();
    const DType cached = args.inputs[1].dtype();
    Tensor& y = args.outputs[0];
    std::memset(y.raw(), 0, y.size_bytes());
    std::vector<double> scores, sum(dim);
    std::vector<int64_t> keys;  // positions attended
    const auto row = [&](const StepSequence& s, int64_t position, int64_t h, int64_t at) {
      const int32_t* const table = args.inputs[2].data<int32_t>() + s.index * blocks_per_seq;
      const int64_t kv_head = h / group;
      scores.clear(), keys.clear();
      double highest = -INFINITY, total = 0;
      for (int64_t p = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0; p <= position; ++p) {
        const int64_t block = table[p / cache.block_size];
        if (block < 0 || block >= cache.num_blocks) continue;
        const int64_t plane = cache.plane(block, 0, kv_head);
        double score = 0;
        for (int64_t d = 0; d < dim; ++d) score += q[at + d] * load(cached, memory, plane + cache.key(p % cache.block_size, d), k_scale);
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
        for (int64_t d = 0; d < dim; ++d)
          sum[d] += weight * load(cached, memory, plane + cache.value(keys[i] % cache.block_size, d), v_scale);
      }
      for (int64_t d = 0; d < dim; ++d) store_at(y.dtype(), y.raw(), at + d, sum[d] / total);
    };
    for_each_sequence(args.inputs[4].data<int32_t>(), args.inputs[3].data<int32_t>(), seqs, tokens,
                      sequence_capacity(blocks_per_seq, cache.block_size), [&](const StepSequence& s) {
                        for (int64_t j = 0; j < s.count; ++j)
                          for (int64_t h = 0; h < heads; ++h) row(s, s.length - s.count + j, h, ((s.first + j) * heads + h) * dim);
                      });
  };
}

RunFunction prepare_paged_attention(const NodeView& node) { return prepare_attention(node, node.input_shapes[2]); }

RunFunction prepare_cached_attention(const NodeView& node) {
  const bool has_rope = node.num_inputs() > 6 && node.has_input(6);
  const RunFunction write = prepare_write(node, has_rope ? node.input_shapes[6][1] : 0);
  const RunFunction attend = prepare_attention(node, node.input_shapes[3]);
  return [=](const RunArgs& args) {
    const auto input = [&](size_t i) { return i < args.inputs.size() ? args.inputs[i] : Tensor(); };
    std::vector<Tensor> q{Tensor::empty(args.inputs[0].dtype(), args.outputs[0].shape())};
    const std::vector<Tensor> written{input(0), input(1), input(2), input(6), input(7), input(8), input(9)};
    const std::vector<Tensor> attended{q[0], input(1), input(3), input(4), input(5)};
    RunArgs step = args;
    step.inputs = written, step.outputs = q;
    write(step);
    step.inputs = attended, step.outputs = args.outputs;
    attend(step);
  };
}

}  // namespace

KernelList kv_cache_kernels() {
  return {define("kv_cache_write", prepare_kv_cache_write), define("paged_attention", prepare_paged_attention),
          define("cached_attention", prepare_cached_attention)};
}

}  // namespace tokamak::cpu::ref
