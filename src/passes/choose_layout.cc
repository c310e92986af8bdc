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

// Mean and variance over `axes`, then y = (x - mean) / sqrt(variance + epsilon), as nodes before `n`.
Value* standardised(Value* x, const Ints& axes, double epsilon, Node* n) {
  Graph& graph = *n->graph();
  const Attrs reduction{{"axes", axes}, {"keepdims", int64_t{1}}};
  Value* mean = graph.build("reduce_mean", {x}, reduction, n);
  Value* centred = graph.build("sub", {x, mean}, {}, n);
  Value* var = graph.build("reduce_mean", {graph.build("mul", {centred, centred}, {}, n)}, reduction, n);
  Value* inv = graph.build("rsqrt", {graph.build("add", {var, scalar_f32(graph, epsilon)}, {}, n)}, {}, n);
  return graph.build("mul", {centred, inv}, {}, n);
}

// A vector shaped to multiply axis 1 of a tensor of this rank.
Value* along_channels(Value* v, int64_t rank, Node* n) {
  Dims shape(rank - 1, Dim(1));
  shape[0] = v->type.dims[0];
  return n->graph()->build("reshape", {v}, {{"shape", shape}}, n);
}

bool finish_norm(Node* n, Value* y) {
  y->producer()->origin = merged_origin({n});
  replace(n->output(0), y);
  return true;
}

// instance_norm looks at one channel at a time: in NHWC it is two reductions over the spatial axes and pointwise work. Behind a reshape of
// [N,C,H,W] to [N,G,M] it is PyTorch's group norm: the same over [N,G,C/G,H,W], whose channel axes stay last in NHWC.
bool split_instance_norm(Node* n) {
  Value* x = n->input(0);
  const int64_t rank = rank_of(x);
  if (!is_f32(x) || rank < 3 || rank > 4) return false;
  Graph& graph = *n->graph();
  const double epsilon = n->attrs.get_float("epsilon", 1e-5);
  Node* grouped = rank == 3 ? producer(x, "reshape") : nullptr;
  Value* y = nullptr;
  if (grouped != nullptr && rank_of(grouped->input(0)) == 4) {
    const Dims &from = grouped->input(0)->type.dims, &to = x->type.dims;
    if (!(from[0] == to[0]) || !from[1].is_const() || !to[1].is_const() || to[1].value() == 0 || from[1].value() % to[1].value() != 0) return false;
    const Dims five{from[0], to[1], Dim(from[1].value() / to[1].value()), from[2], from[3]};
    if (!only_input_symbols(graph, five) || !only_input_symbols(graph, to)) return false;
    Value* x5 = graph.build("reshape", {grouped->input(0)}, {{"shape", five}}, n);
    y = graph.build("reshape", {standardised(x5, {2, 3, 4}, epsilon, n)}, {{"shape", to}}, n);
  } else {
    Ints axes;
    for (int64_t i = 2; i < rank; ++i) axes.push_back(i);
    y = standardised(x, axes, epsilon, n);
  }
  if (splat_of(n->input(1)) != 1.0) y = graph.build("mul", {y, along_channels(n->input(1), rank, n)}, {}, n);
  if (splat_of(n->input(2)) != 0.0) y = graph.build("add", {y, along_channels(n->input(2), rank, n)}, {}, n);
  return finish_norm(n, y);
}

bool split_group_norm(Node* n) {
  Value* x = n->input(0);
  if (!is_f32(x) || rank_of(x) != 4 || !x->type.dims[1].is_const()) return false;
  Graph& graph = *n->graph();
  const int64_t groups = n->attrs.get_int("num_groups"), channels = x->type.dims[1].value();
  if (groups < 1 || channels % groups != 0 || !only_input_symbols(graph, x->type.dims)) return false;
  const Dims five{x->type.dims[0], Dim(groups), Dim(channels / groups), x->type.dims[2], x->type.dims[3]};
  Value* y = standardised(graph.build("reshape", {x}, {{"shape", five}}, n), {2, 3, 4}, n->attrs.get_float("epsilon", 1e-5), n);
  y = graph.build("reshape", {y}, {{"shape", x->type.dims}}, n);
  y = graph.build("mul", {y, along_channels(n->input(1), 4, n)}, {}, n);
  return finish_norm(n, graph.build("add", {y, along_channels(n->input(2), 4, n)}, {}, n));
}

}  // namespace

int choose_layout(Graph& graph, PassContext&) {
  bool convolutions = false;
  for (const auto& n : graph.nodes()) convolutions = convolutions || n->is("conv") || n->is("conv_transpose");
  if (!convolutions) return 0;
  int changed = 0;
  for (Node* n : graph.nodes_snapshot()) {
    const bool done = (has_layout(n) && to_nhwc(n)) || (n->is("instance_norm") && split_instance_norm(n)) || (n->is("group_norm") && split_group_norm(n));
    if (!done) continue;
    erase_if_dead(n);
    ++changed;
  }
  return changed;
}

}  // namespace tokamak::passes
