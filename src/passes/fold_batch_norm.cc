// Inference batch normalisation is a scale and a shift per channel. Behind a convolution with constant weights both go into the weights and
// the bias, and so do multiplications and additions of per-channel constants; elsewhere it becomes mul + add, for the region pass to fuse.

#include <cmath>

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

struct Affine {
  std::vector<float> scale, shift;  // one a channel
};

// The per-channel constants of `c` broadcast against [N, C, spatial...]: C values; nullopt when it varies over anything else.
std::optional<std::vector<float>> channel_vector(const Value* c, int64_t rank, int64_t channels) {
  if (c == nullptr || !c->is_constant() || c->constant.dtype() != DType::F32 || c->constant.rank() > rank) return std::nullopt;
  const std::vector<float> values = floats_of(c);
  if (values.size() == 1) return std::vector<float>(channels, values[0]);
  const Shape& shape = c->constant.shape();
  const int64_t offset = rank - c->constant.rank();
  for (int64_t i = 0; i < c->constant.rank(); ++i)
    if (shape[i] != 1 && i + offset != 1) return std::nullopt;
  if (static_cast<int64_t>(values.size()) != channels) return std::nullopt;
  return values;
}

// What `n` does to its data input (stored), if that is per-channel affine with constants.
std::optional<Affine> affine_of(const Node* n, Value** x) {
  const Value* out = n->output(0);
  if (!is_f32(out) || rank_of(out) < 3 || !out->type.dims[1].is_const()) return std::nullopt;
  const int64_t channels = out->type.dims[1].value();
  if (n->is("batch_norm")) {
    std::vector<float> p[4];
    for (int i = 0; i < 4; ++i) {
      const Value* v = n->input(i + 1);
      if (v == nullptr || !v->is_constant() || v->constant.dtype() != DType::F32 || v->constant.count() != channels) return std::nullopt;
      p[i] = floats_of(v);
    }
    const double epsilon = n->attrs.get_float("epsilon", 1e-5);
    Affine a{std::vector<float>(channels), std::vector<float>(channels)};
    for (int64_t c = 0; c < channels; ++c) {
      const double scale = p[0][c] / std::sqrt(static_cast<double>(p[3][c]) + epsilon);
      a.scale[c] = static_cast<float>(scale);
      a.shift[c] = static_cast<float>(p[1][c] - p[2][c] * scale);
    }
    *x = n->input(0);
    return a;
  }
  if (!n->is("mul") && !n->is("add")) return std::nullopt;
  for (int i = 0; i < 2; ++i) {
    if (!same_dims(n->input(i), out)) continue;
    auto v = channel_vector(n->input(1 - i), rank_of(out), channels);
    if (!v) continue;
    *x = n->input(i);
    if (n->is("mul")) return Affine{*v, std::vector<float>(channels, 0)};
    return Affine{std::vector<float>(channels, 1), *v};
  }
  return std::nullopt;
}

// Output channels along axis 0 (conv) or axis 1 (conv_transpose without groups).
Tensor scaled_weights(const Tensor& w, const std::vector<float>& scale, bool transposed) {
  Tensor out = w.clone();
  const int64_t outer = transposed ? w.dim(0) : 1, channels = static_cast<int64_t>(scale.size());
  const int64_t inner = w.count() / (outer * channels);
  float* p = out.data<float>();
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < inner; ++i) *p++ *= scale[c];
  return out;
}

bool into_convolution(Node* n, Value* x, const Affine& a) {
  Node* conv = sole_producer(x, "conv");
  bool transposed = false;
  if (conv == nullptr) {
    conv = sole_producer(x, "conv_transpose");
    transposed = true;
  }
  if (conv == nullptr || conv->attrs.has("epilogue") || conv->attrs.get_string("layout", "NCHW") != "NCHW") return false;
  Value *w = conv->input(1), *b = conv->input(2);
  if (!w->is_constant() || w->constant.dtype() != DType::F32 || !w->constant.layout().empty() || (b != nullptr && !b->is_constant()))
    return false;
  const int64_t channels = static_cast<int64_t>(a.scale.size());
  if (transposed && (conv->attrs.get_int("group", 1) != 1 || w->constant.dim(1) != channels)) return false;
  if (!transposed && w->constant.dim(0) != channels) return false;
  Graph& graph = *n->graph();
  std::vector<float> bias(channels, 0);
  if (b != nullptr) bias = floats_of(b);
  bool scales = false;
  for (int64_t c = 0; c < channels; ++c) {
    scales = scales || a.scale[c] != 1;
    bias[c] = bias[c] * a.scale[c] + a.shift[c];
  }
  Value* weights = scales ? graph.add_constant(scaled_weights(w->constant, a.scale, transposed), w->name) : w;
  Value* v = graph.build(conv->op().name, {conv->input(0), weights, constant_f32(graph, {channels}, bias)}, conv->attrs, n, conv->name);
  v->producer()->origin = merged_origin({conv, n});
  replace(n->output(0), v);
  return true;
}

bool into_mul_add(Node* n, Value* x, const Affine& a) {
  Graph& graph = *n->graph();
  Ints shape(rank_of(x) - 1, 1);
  shape[0] = static_cast<int64_t>(a.scale.size());
  Value* scaled = graph.build("mul", {x, constant_f32(graph, shape, a.scale)}, {}, n, n->name);
  Value* v = graph.build("add", {scaled, constant_f32(graph, shape, a.shift)}, {}, n, n->name);
  scaled->producer()->origin = v->producer()->origin = merged_origin({n});
  replace(n->output(0), v);
  return true;
}

}  // namespace

int fold_batch_norm(Graph& graph, PassContext&) {
  int folded = 0;
  for (Node* n : graph.nodes_snapshot()) {
    Value* x = nullptr;
    const auto a = n->is("batch_norm") || n->is("mul") || n->is("add") ? affine_of(n, &x) : std::nullopt;
    if (!a) continue;
    if (!into_convolution(n, x, *a) && !(n->is("batch_norm") && into_mul_add(n, x, *a))) continue;
    erase_if_dead(n);
    ++folded;
  }
  return folded;
}

}  // namespace tokamak::passes
