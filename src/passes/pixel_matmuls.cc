// Convolutions that are plain matrix products become matmuls, which have more kernels to choose from: 1x1 windows on NHWC images, and
// windows side by side on an image of few channels (the patches of vision transformers), whose transpose to NHWC then gathers patches.

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

bool convolution(Node* n) {
  if (n->attrs.get_string("layout", "NCHW") != "NHWC" || n->attrs.has("epilogue") || n->attrs.get_int("group", 1) != 1) return false;
  const Value* weights = n->input(1);
  if (!weights->is_constant() || !is_f32(weights) || !weights->constant.layout().empty() || !is_f32(n->output(0))) return false;
  const Shape& w = weights->constant.shape();
  if (!all_are(n->attrs.get_ints("pads", {}), 0) || !all_are(n->attrs.get_ints("dilations", {}), 1)) return false;
  if (n->attrs.get_string("auto_pad", "NOTSET") != "NOTSET" && n->attrs.get_string("auto_pad", "NOTSET") != "VALID") return false;
  const Ints kernel(w.begin() + 2, w.end()), strides = n->attrs.get_ints("strides", Ints(kernel.size(), 1));
  if (strides != kernel) return false;
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
