// What is left of layout work: a transpose that only moves axes of size 1 is a reshape (free), neighbouring reshapes merge, and a transpose
// of the last two axes in front of a matmul becomes its trans_a or trans_b.

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

bool only_moves_ones(Node* n) {
  const Value* x = n->input(0);
  if (!x->type.ranked || !only_input_symbols(*n->graph(), n->output(0)->type.dims)) return false;
  int64_t last = -1;
  for (int64_t p : perm_of(n)) {
    if (x->type.dims[p].is(1)) continue;
    if (p < last) return false;
    last = p;
  }
  Value* v = n->graph()->build("reshape", {n->input(0)}, {{"shape", n->output(0)->type.dims}}, n, n->name);
  v->producer()->origin = n->origin;
  replace(n->output(0), v);
  return true;
}

bool into_matmul(Node* n) {
  if (n->num_inputs() != 2 || n->attrs.has("epilogue")) return false;
  bool changed = false;
  for (int i = 0; i < 2; ++i) {
    Node* t = producer(n->input(i), "transpose");
    if (t == nullptr || rank_of(t->output(0)) < 2 || sole_user(t->output(0)) != n || n->input(0) == n->input(1)) continue;
    Ints swap(rank_of(t->output(0)));
    for (size_t k = 0; k < swap.size(); ++k) swap[k] = static_cast<int64_t>(k);
    std::swap(swap[swap.size() - 1], swap[swap.size() - 2]);
    if (perm_of(t) != swap) continue;
    const char* attr = i == 0 ? "trans_a" : "trans_b";
    n->attrs.set(attr, int64_t{1} - n->attrs.get_int(attr, 0));
    n->set_input(i, t->input(0));
    changed = true;
  }
  return changed;
}

}  // namespace

int finish_movement(Graph& graph, PassContext& context) {
  int changed = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (n->is("transpose") && only_moves_ones(n)) {
      erase_if_dead(n);
      ++changed;
    } else if (n->is("matmul")) {
      changed += into_matmul(n);
    }
  }
  if (changed != 0) canonicalize(graph, context);
  remove_dead(graph, context);
  return changed;
}

}  // namespace tokamak::passes
