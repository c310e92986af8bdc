// softmax from exp(x - max(x)) / sum(exp(x - max(x))), with or without the subtraction; log_softmax from log(softmax(x)).

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

std::optional<int64_t> single_axis(const Node* reduce) {
  if (!reduce->attrs.has("axes") || reduce->attrs.get_int("keepdims", 1) != 1) return std::nullopt;
  const Ints axes = reduce->attrs.get_ints("axes");
  if (axes.size() != 1) return std::nullopt;
  const int64_t rank = rank_of(reduce->input(0));
  if (axes[0] < 0 && rank < 0) return std::nullopt;
  return axes[0] < 0 ? axes[0] + rank : axes[0];
}

bool softmax(Node* div) {
  Value* e = div->input(0);
  Node* exp = producer(e, "exp");
  Node* sum = producer(div->input(1), "reduce_sum");
  if (exp == nullptr || sum == nullptr || sum->input(0) != e) return false;
  const auto axis = single_axis(sum);
  if (!axis) return false;
  Value* x = exp->input(0);
  if (Node* sub = producer(x, "sub")) {
    Node* max = producer(sub->input(1), "reduce_max");
    if (max != nullptr && max->input(0) == sub->input(0) && single_axis(max) == axis) x = sub->input(0);
  }
  Value* v = div->graph()->build("softmax", {x}, {{"axis", *axis}}, div, div->name);
  v->producer()->origin = merged_origin({exp, sum, div});
  replace(div->output(0), v);
  return true;
}

bool log_softmax(Node* log) {
  Node* s = sole_producer(log->input(0), "softmax");
  if (s == nullptr) return false;
  Value* v = log->graph()->build("log_softmax", {s->input(0)}, s->attrs, log, log->name);
  v->producer()->origin = merged_origin({s, log});
  replace(log->output(0), v);
  return true;
}

}  // namespace

int fuse_softmax(Graph& graph, PassContext&) {
  int fused = 0;
  for (Node* n : graph.nodes_snapshot()) {
    const bool done = (n->is("div") && softmax(n)) || (n->is("log") && log_softmax(n));
    if (!done) continue;
    erase_if_dead(n);
    ++fused;
  }
  return fused;
}

}  // namespace tokamak::passes
