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

// instance_norm is group_norm with a group a channel.
bool group_norm_to_nhwc(Node* n) {
  const int64_t rank = rank_of(n->input(0));
  if (!is_f32(n->input(0)) || (rank != 3 && rank != 4) || n->attrs.get_string("layout", "NCHW") != "NCHW") return false;
  const Dim& channels = n->input(0)->type.dims[1];
  if (!channels.is_const()) return false;
  Graph& graph = *n->graph();
  Value* x = graph.build("transpose", {n->input(0)}, {{"perm", to_last(rank)}}, n);
  const Attrs attrs{{"num_groups", n->is("group_norm") ? n->attrs.get_int("num_groups") : channels.value()},
                    {"epsilon", n->attrs.get_float("epsilon", 1e-5)},
                    {"layout", std::string("NHWC")}};
  Value* y = graph.build("group_norm", {x, n->input(1), n->input(2)}, attrs, n, n->name);
  y->producer()->origin = merged_origin({n});
  replace(n->output(0), graph.build("transpose", {y}, {{"perm", inverse_perm(to_last(rank))}}, n));
  return true;
}

}  // namespace

int choose_layout(Graph& graph, PassContext&) {
  bool convolutions = false;
  for (const auto& n : graph.nodes()) convolutions = convolutions || n->is("conv") || n->is("conv_transpose");
  if (!convolutions) return 0;
  int changed = 0;
  for (Node* n : graph.nodes_snapshot()) {
    const bool done = (has_layout(n) && to_nhwc(n)) || ((n->is("instance_norm") || n->is("group_norm")) && group_norm_to_nhwc(n));
    if (!done) continue;
    erase_if_dead(n);
    ++changed;
  }
  return changed;
}

}  // namespace tokamak::passes
