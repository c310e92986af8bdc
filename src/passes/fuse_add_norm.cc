// norm(x + residual) becomes add_layer_norm or add_rms_norm, which also gives the sum to whoever else wants it. Runs after epilogues: an
// addition that a matmul could take is already gone.

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

bool add_norm(Node* norm) {
  const bool layer = norm->is("layer_norm");
  if (norm->num_outputs() > 1 || norm->attrs.get_int("axis", -1) != -1) {
    const int64_t rank = rank_of(norm->input(0));
    if (norm->num_outputs() > 1 || norm->attrs.get_int("axis", -1) != rank - 1) return false;
  }
  Value* sum = norm->input(0);
  Node* add = producer(sum, "add");
  if (add == nullptr || add->graph() != norm->graph() || !is_float(sum) || !same_dims(add->input(0), sum) || !same_dims(add->input(1), sum))
    return false;
  if (add->input(0)->is_constant() || add->input(1)->is_constant()) return false;
  Graph& graph = *norm->graph();
  std::vector<Value*> inputs{add->input(0), add->input(1)};
  for (int i = 1; i < norm->num_inputs(); ++i) inputs.push_back(norm->input(i));
  // Every user of the sum must come after the new node: it takes the addition's place when its vectors are ready there, else the norm's.
  bool early = true;
  for (size_t i = 2; i < inputs.size(); ++i) early = early && (inputs[i] == nullptr || inputs[i]->producer() == nullptr);
  const bool shared = sole_user(sum) == nullptr;
  if (shared && !early) return false;
  Node* fused =
      graph.add_node(layer ? "add_layer_norm" : "add_rms_norm", inputs, norm->attrs, norm->name, shared ? add : norm, shared ? 2 : 1);
  fused->origin = merged_origin({add, norm});
  replace(norm->output(0), fused->output(0));
  if (shared) replace(sum, fused->output(1));
  return true;
}

}  // namespace

int fuse_add_norm(Graph& graph, PassContext&) {
  int fused = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (!(n->is("layer_norm") || n->is("rms_norm")) || !add_norm(n)) continue;
    erase_if_dead(n);
    ++fused;
  }
  return fused;
}

}  // namespace tokamak::passes
