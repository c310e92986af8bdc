// Convolutions, pools and resizes compute in NHWC, between explicit transposes; sink_transposes then cancels those between them. NHWC makes
// 1x1 convolutions plain matrix products and keeps what follows (bias, activation, concat) contiguous. A graph without a convolution stays
// as it is.

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

Ints to_last(int64_t rank) {  // NCHW -> NHWC
  Ints perm{0};
  for (int64_t i = 2; i < rank; ++i) perm.push_back(i);
  perm.push_back(1);
  return perm;
}

bool has_layout(const Node* n) {
  for (const char* op : {"conv", "conv_transpose", "max_pool", "avg_pool", "lp_pool", "resize"})
    if (n->is(op)) return true;
  return false;
}

bool to_nhwc(Node* n) {
  const int64_t rank = rank_of(n->input(0));
  if (rank != 3 && rank != 4) return false;
  if (n->attrs.get_string("layout", "NCHW") != "NCHW" || n->attrs.has("epilogue") || !is_float(n->input(0))) return false;
  if (n->num_outputs() > 1) return false;  // indices of a max_pool are in NCHW order
  if (n->is("resize")) {
    if (rank != 4 || n->attrs.has("axes") || n->input(1) != nullptr) return false;
  }
  Graph& graph = *n->graph();
  std::vector<Value*> inputs(n->inputs().begin(), n->inputs().end());
  if (n->is("resize")) {  // scales and sizes follow the axes as stored
    for (size_t i = 2; i < inputs.size(); ++i)
      if (inputs[i] != nullptr && rank_of(inputs[i]) == 1 && inputs[i]->type.dims[0].is(rank))
        inputs[i] =
            graph.build("gather", {inputs[i], graph.add_constant(Tensor::of<int64_t>({rank}, to_last(rank)))}, {{"axis", int64_t{0}}}, n);
  }
  inputs[0] = graph.build("transpose", {inputs[0]}, {{"perm", to_last(rank)}}, n);
  Attrs attrs = n->attrs;
  attrs.set("layout", std::string("NHWC"));
  Value* y = graph.build(n->op().name, inputs, attrs, n, n->name);
  y->producer()->origin = merged_origin({n});
  replace(n->output(0), graph.build("transpose", {y}, {{"perm", inverse_perm(to_last(rank))}}, n));
  return true;
}

// instance_norm looks at one channel at a time: in NHWC it is two reductions over the spatial axes and pointwise work.
bool split_instance_norm(Node* n) {
  Value* x = n->input(0);
  if (!is_f32(x) || rank_of(x) < 3 || rank_of(x) > 4) return false;
  const int64_t rank = rank_of(x);
  Graph& graph = *n->graph();
  Ints axes;
  for (int64_t i = 2; i < rank; ++i) axes.push_back(i);
  Dims shape(rank - 1, Dim(1));
  shape[0] = n->input(1)->type.dims[0];
  const auto channel = [&](Value* v) { return graph.build("reshape", {v}, {{"shape", shape}}, n); };
  const Attrs reduction{{"axes", axes}, {"keepdims", int64_t{1}}};
  Value* mean = graph.build("reduce_mean", {x}, reduction, n);
  Value* centred = graph.build("sub", {x, mean}, {}, n);
  Value* var = graph.build("reduce_mean", {graph.build("mul", {centred, centred}, {}, n)}, reduction, n);
  Value* inv = graph.build("rsqrt", {graph.build("add", {var, scalar_f32(graph, n->attrs.get_float("epsilon", 1e-5))}, {}, n)}, {}, n);
  Value* scale = graph.build("mul", {inv, channel(n->input(1))}, {}, n);
  Value* y = graph.build("add", {graph.build("mul", {centred, scale}, {}, n), channel(n->input(2))}, {}, n);
  for (Value* v : {mean, centred, var, y}) v->producer()->origin = merged_origin({n});
  replace(n->output(0), y);
  return true;
}

}  // namespace

int choose_layout(Graph& graph, PassContext&) {
  bool convolutions = false;
  for (const auto& n : graph.nodes()) convolutions = convolutions || n->is("conv") || n->is("conv_transpose");
  if (!convolutions) return 0;
  int changed = 0;
  for (Node* n : graph.nodes_snapshot()) {
    const bool done = (has_layout(n) && to_nhwc(n)) || (n->is("instance_norm") && split_instance_norm(n));
    if (!done) continue;
    erase_if_dead(n);
    ++changed;
  }
  return changed;
}

}  // namespace tokamak::passes
