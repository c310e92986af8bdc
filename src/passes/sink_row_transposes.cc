// Transposes that leave rows whole (the last axis stays last) move below products with a matrix and what adds or scales columns by
// constants. Exporters swap [B,S,E] to [S,B,E] in front of a projection and back behind the next: sunk, the pairs meet, and the packed
// projection between is seen by fuse_attention.

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

// Wider results than this many times the input: moving them would cost more than it may save.
constexpr int64_t kWidest = 4;

Node* row_transpose(const Value* v, const Node* user) {
  Node* t = producer(v, "transpose");
  if (t == nullptr || t->graph() != user->graph() || sole_user(v) != user || t->input(0)->is_constant() || rank_of(v) < 3) return nullptr;
  const Ints perm = perm_of(t);
  return perm.back() == rank_of(v) - 1 ? t : nullptr;
}

bool finish(Node* n, Node* t, std::vector<Value*> inputs) {
  Graph& graph = *n->graph();
  Value* y = graph.build(n->op().name, std::move(inputs), n->attrs, n, n->name);
  y->producer()->origin = merged_origin({n});
  replace(n->output(0), graph.build("transpose", {y}, {{"perm", perm_of(t)}}, n));
  return true;
}

bool matmul(Node* n) {
  Node* t = row_transpose(n->input(0), n);
  if (t == nullptr || n->num_inputs() != 2 || n->attrs.has("epilogue") || n->attrs.get_int("trans_a", 0) != 0) return false;
  if (rank_of(n->input(1)) != 2 || !n->input(1)->is_constant()) return false;
  const Dim &k = n->input(0)->type.dims.back(), &columns = n->output(0)->type.dims.back();
  if (!k.is_const() || !columns.is_const() || columns.value() > kWidest * k.value()) return false;
  return finish(n, t, {t->input(0), n->input(1)});
}

bool column_constants(Node* n) {
  if (n->num_inputs() != 2 || n->num_outputs() != 1 || !(n->is("add") || n->is("mul"))) return false;
  for (int i = 0; i < 2; ++i) {
    Node* t = row_transpose(n->input(i), n);
    Value* other = n->input(1 - i);
    if (t == nullptr || !other->is_constant() || rank_of(other) > 1 || !same_dims(n->input(i), n->output(0))) continue;
    return finish(n, t, i == 0 ? std::vector<Value*>{t->input(0), other} : std::vector<Value*>{other, t->input(0)});
  }
  return false;
}

}  // namespace

int sink_row_transposes(Graph& graph, PassContext&) {
  int moved = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (!(n->is("matmul") && matmul(n)) && !column_constants(n)) continue;
    erase_if_dead(n);
    ++moved;
  }
  return moved;
}

}  // namespace tokamak::passes
