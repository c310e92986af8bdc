// attention by its definition (the whole score row in memory), and rope.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

// A rank-4 tensor of heads: sizes and strides by meaning, whichever layout.
struct Heads {
  int64_t batch, heads, length, width;
  int64_t batch_stride, head_stride, length_stride, first = 0;

  Heads(const NodeView& node, const Shape& shape, const std::string& layout) {
    if (shape.size() != 4) fail_node(node, ErrorCode::InvalidArgument, "expected a rank of 4, found {}", to_string(shape));
    const bool heads_first = layout == "BHSD";
    if (!heads_first && layout != "BSHD") fail_node(node, ErrorCode::Unsupported, "layout \"{}\"; expected BHSD or BSHD", layout);
    const std::vector<int64_t> strides = strides_of(shape);
    batch = shape[0];
    heads = shape[heads_first ? 1 : 2];
    length = shape[heads_first ? 2 : 1];
    width = shape[3];
    batch_stride = strides[0];
    head_stride = strides[heads_first ? 1 : 2];
    length_stride = strides[heads_first ? 2 : 1];
  }
  // Only heads [first, first + count), when the attribute is there.
  void select(const ir::Attrs& attrs, const char* first_name, const char* count_name) {
    if (!attrs.has(first_name)) return;
    first = attrs.get_int(first_name) * head_stride;
    heads = attrs.get_int(count_name);
  }
  int64_t at(int64_t b, int64_t h, int64_t s) const { return first + b * batch_stride + h * head_stride + s * length_stride; }
};

RunFunction prepare_attention(const NodeView& node) {
  const ir::Attrs& attrs = node.attrs();
  const std::string q_layout = attrs.get_string("q_layout", "BHSD"), kv_layout = attrs.get_string("kv_layout", "BHSD"),
                    out_layout = attrs.get_string("out_layout", q_layout);
  Heads q(node, node.input_shapes[0], q_layout), k(node, node.input_shapes[1], kv_layout), v(node, node.input_shapes[2], kv_layout);
  const Heads out(node, node.output_shapes[0], out_layout);
  q.select(attrs, "q_first", "q_heads"), k.select(attrs, "k_first", "kv_heads"), v.select(attrs, "v_first", "kv_heads");
  if (k.heads == 0 || q.heads % k.heads != 0 || v.heads != k.heads || k.width != q.width || v.length != k.length || out.width != v.width)
    fail_node(node, ErrorCode::InvalidArgument, "q {}, k {} and v {} do not fit", to_string(node.input_shapes[0]),
              to_string(node.input_shapes[1]), to_string(node.input_shapes[2]));
  const double scale = attrs.get_float("scale", 1 / std::sqrt(static_cast<double>(q.width))), softcap = attrs.get_float("softcap", 0);
  const bool is_causal = attrs.get_bool("is_causal", false), has_mask = node.has_input(3);
  const bool bool_mask = has_mask && node.input_dtypes[3] == DType::Bool;
  const std::vector<int64_t> mask_strides =
      has_mask ? broadcast_strides(node.input_shapes[3], {q.batch, q.heads, q.length, k.length}) : std::vector<int64_t>{};
  return [=](const RunArgs& args) {
    const std::vector<double> query = to_doubles(args.inputs[0]), keys = to_doubles(args.inputs[1]), values = to_doubles(args.inputs[2]);
    const std::vector<double> mask = has_mask ? to_doubles(args.inputs[3]) : std::vector<double>{};
    std::vector<double> y(args.outputs[0].count(), 0), scores(k.length);
    for (int64_t b = 0; b < q.batch; ++b)
      for (int64_t h = 0; h < q.heads; ++h)
        for (int64_t i = 0; i < q.length; ++i) {
          const int64_t kv_head = h / (q.heads / k.heads), visible = is_causal ? i + k.length - q.length + 1 : k.length;
          const double* row = query.data() + q.at(b, h, i);
          double highest = -INFINITY, sum = 0;
          for (int64_t j = 0; j < k.length; ++j) {
            double score = -INFINITY;
            if (j < visible) {
              const double* key = keys.data() + k.at(b, kv_head, j);
              score = 0;
              for (int64_t d = 0; d < q.width; ++d) score += row[d] * key[d];
              score *= scale;
              if (softcap > 0) score = softcap * std::tanh(score / softcap);
              if (has_mask) {
                const double m = mask[b * mask_strides[0] + h * mask_strides[1] + i * mask_strides[2] + j * mask_strides[3]];
                if (!bool_mask) score += m;
                else if (m == 0) score = -INFINITY;
              }
            }
            scores[j] = score;
            if (score > highest || std::isnan(score)) highest = score;
          }
          if (highest == -INFINITY) continue;  // nothing to attend: zeros
          double* to = y.data() + out.at(b, h, i);
          for (int64_t j = 0; j < k.length; ++j) {
            const double weight = std::exp(scores[j] - highest);
            if (weight == 0) continue;  // 0 * infinity must not make a masked value visible
            sum += weight;
            const double* value = values.data() + v.at(b, kv_head, j);
            for (int64_t d = 0; d < v.width; ++d) to[d] += weight * value[d];
          }
          for (int64_t d = 0; d < v.width; ++d) to[d] /= sum;
        }
    from_doubles(y, args.outputs[0]);
  };
}

RunFunction prepare_rope(const NodeView& node) {
  const Shape table = node.input_shapes[1];
  const std::string layout = node.attrs().get_string("layout", "BHSD");
  const Heads x(node, node.input_shapes[0], layout);
  const bool interleaved = node.attrs().get_bool("interleaved", false);
  const int64_t half = table.empty() ? 0 : table.back();
  if (table.size() < 2 || table.size() > 4 || 2 * half > x.width || node.input_shapes[2] != table)
    fail_node(node, ErrorCode::InvalidArgument, "cos {} and sin {} do not fit x {}", to_string(table), to_string(node.input_shapes[2]),
              to_string(node.input_shapes[0]));
  // [S, D/2], [B, S, D/2], or rank 4 with the axes of x's layout or with heads before the sequence; sizes of 1 repeat.
  const std::vector<int64_t> strides = strides_of(table);
  const size_t rank = table.size();
  size_t length_axis = rank - 2, head_axis = rank;
  if (rank == 4) {
    const bool length_last = layout == "BHSD" || (table[1] == 1 && table[2] == x.length);
    length_axis = length_last ? 2 : 1;
    head_axis = length_last ? 1 : 2;
  }
  const auto stride_of = [&](size_t axis, int64_t size) -> int64_t {
    if (axis >= rank || table[axis] == 1) return 0;
    if (table[axis] != size)
      fail_node(node, ErrorCode::InvalidArgument, "cos {} does not fit x {}", to_string(table), to_string(node.input_shapes[0]));
    return strides[axis];
  };
  const int64_t batch_stride = rank > 2 ? stride_of(0, x.batch) : 0, head_stride = stride_of(head_axis, x.heads),
                length_stride = stride_of(length_axis, x.length);
  return [=](const RunArgs& args) {
    std::vector<double> y = to_doubles(args.inputs[0]);
    const std::vector<double> cosines = to_doubles(args.inputs[1]), sines = to_doubles(args.inputs[2]);
    for (int64_t b = 0; b < x.batch; ++b)
      for (int64_t h = 0; h < x.heads; ++h)
        for (int64_t s = 0; s < x.length; ++s) {
          double* row = y.data() + x.at(b, h, s);
          const int64_t at = b * batch_stride + h * head_stride + s * length_stride;
          for (int64_t i = 0; i < half; ++i) {
            double& first = row[interleaved ? 2 * i : i];
            double& second = row[interleaved ? 2 * i + 1 : i + half];
            const double a = first, c = second;
            first = a * cosines[at + i] - c * sines[at + i];
            second = a * sines[at + i] + c * cosines[at + i];
          }
        }
    from_doubles(y, args.outputs[0]);
  };
}

}  // namespace

KernelList attention_kernels() { return {define("attention", prepare_attention), define("rope", prepare_rope)}; }

}  // namespace tokamak::cpu::ref
