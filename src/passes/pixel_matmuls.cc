// Convolutions that are plain matrix products become matmuls, which have more kernels to choose from: 1x1 windows on NHWC images, and
// windows side by side on an image of few channels (the patches of vision transformers), whose transpose to NHWC then gathers patches.
// What is left of convolutions in steps of 2 on few channels (the first of a convolution network) reads 2x2 pixels as one of four times the
// channels, which the same transpose gathers: kernels read pixels in vectors.

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

bool all_are(const Ints& values, int64_t expected) {
  for (const int64_t v : values)
    if (v != expected) return false;
  return true;
}

// Rows of `x` times the matrix [M, K], and the bias.
bool finish(Node* n, Value* x, int64_t k) {
  Graph& graph = *n->graph();
  Value* w = graph.add_constant(n->input(1)->constant.reshaped({n->input(1)->constant.dim(0), k}), n->input(1)->name);
  Value* y = graph.build("matmul", {x, w}, {{"trans_b", int64_t{1}}}, n, n->name);
  y->producer()->origin = merged_origin({n});
  if (n->num_inputs() > 2 && n->input(2) != nullptr) y = graph.build("add", {y, n->input(2)}, {}, n);
  replace(n->output(0), y);
  return true;
}

// [B,H,W,C] that a transpose made of [B,C,H,W], in windows of [C,kh,kw]: the transpose moves whole windows instead.
bool patches(Node* n, const Shape& w) {
  Node* t = producer(n->input(0), "transpose");
  if (w.size() != 4 || t == nullptr || perm_of(t) != Ints{0, 2, 3, 1} || w[1] % 8 == 0) return false;
  const Dims& x = t->input(0)->type.dims;
  if (!x[2].is_const() || !x[3].is_const() || x[2].value() % w[2] != 0 || x[3].value() % w[3] != 0) return false;
  Graph& graph = *n->graph();
  const Dim rows = x[2].value() / w[2], columns = x[3].value() / w[3];
  if (!only_input_symbols(graph, x)) return false;
  Value* v = graph.build("reshape", {t->input(0)}, {{"shape", Dims{x[0], x[1], rows, w[2], columns, w[3]}}}, n);
  v = graph.build("transpose", {v}, {{"perm", Ints{0, 2, 4, 1, 3, 5}}}, n);
  v = graph.build("reshape", {v}, {{"shape", Dims{x[0], rows, columns, w[1] * w[2] * w[3]}}}, n);
  return finish(n, v, w[1] * w[2] * w[3]);
}

// y[i] = sum_t w[t] x[2 i + t - pad] over blocks of two: with `shift` zeros in front of w, tap t + shift is element (t + shift) % 2 of
// block i - begin + (t + shift) / 2.
struct Halved {
  int64_t shift, begin, end, taps;
};
std::optional<Halved> halved(int64_t size, int64_t out, int64_t taps, int64_t pad) {
  if (size % 2 != 0) return std::nullopt;
  Halved h{.shift = pad % 2, .begin = (pad + pad % 2) / 2, .end = 0, .taps = (taps + pad % 2 + 1) / 2};
  h.end = out - 1 + h.taps - size / 2 - h.begin;
  return h.end >= 0 ? std::optional(h) : std::nullopt;
}

bool blocks_of_pixels(Node* n) {
  Node* t = producer(n->input(0), "transpose");
  const Tensor& w = n->input(1)->constant;
  if (w.rank() != 4 || t == nullptr || perm_of(t) != Ints{0, 2, 3, 1} || w.dim(1) > 4) return false;
  if (n->attrs.get_ints("strides", {1, 1}) != Ints{2, 2} || n->attrs.get_string("auto_pad", "NOTSET") != "NOTSET") return false;
  const Dims &x = t->input(0)->type.dims, &y = n->output(0)->type.dims;
  if (!x[2].is_const() || !x[3].is_const() || !y[1].is_const() || !y[2].is_const() || !only_input_symbols(*n->graph(), x)) return false;
  const Ints pads = n->attrs.get_ints("pads", Ints(4, 0));
  const auto rows = halved(x[2].value(), y[1].value(), w.dim(2), pads[0]), columns = halved(x[3].value(), y[2].value(), w.dim(3), pads[1]);
  if (!rows || !columns) return false;
  const int64_t channels = w.dim(1);
  Tensor blocks = Tensor::zeros(DType::F32, {w.dim(0), 4 * channels, rows->taps, columns->taps});
  for (int64_t m = 0; m < w.dim(0); ++m)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < w.dim(2); ++i)
        for (int64_t j = 0; j < w.dim(3); ++j) {
          const int64_t a = i + rows->shift, b = j + columns->shift, channel = (a % 2 * 2 + b % 2) * channels + c;
          blocks.data<float>()[((m * 4 * channels + channel) * rows->taps + a / 2) * columns->taps + b / 2] =
              w.data<float>()[((m * channels + c) * w.dim(2) + i) * w.dim(3) + j];
        }
  Graph& graph = *n->graph();
  const Dim h = x[2].value() / 2, width = x[3].value() / 2;
  Value* v = graph.build("reshape", {t->input(0)}, {{"shape", Dims{x[0], x[1], h, 2, width, 2}}}, n);
  v = graph.build("transpose", {v}, {{"perm", Ints{0, 2, 4, 3, 5, 1}}}, n);
  v = graph.build("reshape", {v}, {{"shape", Dims{x[0], h, width, 4 * channels}}}, n);
  std::vector<Value*> inputs(n->inputs().begin(), n->inputs().end());
  inputs[0] = v, inputs[1] = graph.add_constant(std::move(blocks), n->input(1)->name);
  Attrs attrs = n->attrs;
  attrs.set("strides", Ints{1, 1});
  attrs.set("pads", Ints{rows->begin, columns->begin, rows->end, columns->end});
  Value* out = graph.build("conv", inputs, attrs, n, n->name);
  out->producer()->origin = merged_origin({n});
  replace(n->output(0), out);
  return true;
}

bool convolution(Node* n) {
  if (n->attrs.get_string("layout", "NCHW") != "NHWC" || n->attrs.has("epilogue") || n->attrs.get_int("group", 1) != 1) return false;
  const Value* weights = n->input(1);
  if (!weights->is_constant() || !is_f32(weights) || !weights->constant.layout().empty() || !is_f32(n->output(0))) return false;
  const Shape& w = weights->constant.shape();
  if (!all_are(n->attrs.get_ints("dilations", {}), 1)) return false;
  if (!all_are(n->attrs.get_ints("pads", {}), 0)) return blocks_of_pixels(n);
  if (n->attrs.get_string("auto_pad", "NOTSET") != "NOTSET" && n->attrs.get_string("auto_pad", "NOTSET") != "VALID") return false;
  const Ints kernel(w.begin() + 2, w.end()), strides = n->attrs.get_ints("strides", Ints(kernel.size(), 1));
  if (strides != kernel) return blocks_of_pixels(n);
  return all_are(kernel, 1) ? finish(n, n->input(0), w[1]) : patches(n, w);
}

}  // namespace

int pixel_matmuls(Graph& graph, PassContext& context) {
  if (!context.is_gpu || context.quantizes) return 0;
  int changed = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (!n->is("conv") || !convolution(n)) continue;
    erase_if_dead(n);
    ++changed;
  }
  return changed;
}

}  // namespace tokamak::passes
