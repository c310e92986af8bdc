// Moves reshapes down, through products with a matrix, pointwise operations and norms that only look at the last axis. Exporters flatten
// [B,S,D] to [B*S,D] around every Gemm: sunk, the pairs meet and cancel, and what stood between them can fuse.

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

// A reshape with its shape as attribute that leaves the last axis alone.
Node* keeps_last(const Value* v) {
  Node* r = producer(v, "reshape");
  if (r == nullptr || r->num_inputs() != 1 || rank_of(v) < 1 || rank_of(r->input(0)) < 1) return nullptr;
  return r->input(0)->type.dims.back() == v->type.dims.back() ? r : nullptr;
}

bool sink(Node* n, std::vector<Value*> inputs, std::initializer_list<const Node*> from) {
  Graph& graph = *n->graph();
  if (!n->output(0)->type.ranked || !only_input_symbols(graph, n->output(0)->type.dims)) return false;
  Value* y = graph.build(n->op().name, std::move(inputs), n->attrs, n, n->name);
  y->producer()->origin = merged_origin(from);
  replace(n->output(0), graph.build("reshape", {y}, {{"shape", n->output(0)->type.dims}}, n));
  return true;
}

// In front of a product, [B,S,H,D] to [B*S,H*D] in two steps: the second leaves the last axis alone and can sink.
bool split_flatten(Node* n) {
  Node* r = producer(n->input(0), "reshape");
  if (r == nullptr || r->num_inputs() != 1 || rank_of(r->output(0)) != 2 || rank_of(r->input(0)) < 3 || keeps_last(r->output(0)) != nullptr)
    return false;
  if (n->num_inputs() != 2 || n->attrs.get_int("trans_a", 0) != 0 || rank_of(n->input(1)) != 2) return false;
  Dims dims = r->input(0)->type.dims;
  Dim columns = 1;
  while (!dims.empty() && !(columns == r->output(0)->type.dims[1])) {
    columns = columns * dims.back();
    dims.pop_back();
  }
  if (dims.size() < 2 || dims.size() > 3) return false;
  dims.push_back(columns);
  if (!only_input_symbols(*n->graph(), dims)) return false;
  Value* rows = n->graph()->build("reshape", {r->input(0)}, {{"shape", dims}}, n);
  n->set_input(0, n->graph()->build("reshape", {rows}, {{"shape", r->output(0)->type.dims}}, n));
  return true;
}

bool matmul(Node* n) {
  split_flatten(n);
  Node* r = keeps_last(n->input(0));
  if (r == nullptr || n->num_inputs() != 2 || n->attrs.get_int("trans_a", 0) != 0 || rank_of(n->input(1)) != 2) return false;
  if (rank_of(r->input(0)) < 2 || rank_of(n->input(0)) < 2) return false;
  // Only rows that were flattened, or are about to be split: windows of images (rank 6) gain nothing.
  if ((rank_of(r->input(0)) <= rank_of(r->output(0)) && rank_of(r->input(0)) != 2) || rank_of(r->input(0)) > 4) return false;
  return sink(n, {r->input(0), n->input(1)}, {n});
}

bool norm(Node* n) {
  Node* r = keeps_last(n->input(0));
  if (r == nullptr || sole_user(n->input(0)) == nullptr || n->num_outputs() != 1) return false;
  const int64_t axis = n->attrs.get_int("axis", -1);
  if (axis != -1 && axis != rank_of(n->input(0)) - 1) return false;
  std::vector<Value*> inputs(n->inputs().begin(), n->inputs().end());
  inputs[0] = r->input(0);
  n->attrs.set("axis", int64_t{-1});
  return sink(n, inputs, {n});
}

bool pointwise(Node* n) {
  if (n->num_outputs() != 1 || !n->output(0)->type.ranked) return false;
  Node* r = nullptr;
  for (Value* v : n->inputs()) {
    Node* p = producer(v, "reshape");
    if (p != nullptr && p->num_inputs() == 1 && sole_user(v) == n && same_dims(v, n->output(0))) r = p;
  }
  if (r == nullptr || rank_of(r->input(0)) < 1) return false;
  const bool last = keeps_last(r->output(0)) != nullptr;
  std::vector<Value*> inputs;
  for (Value* v : n->inputs()) {
    if (v == nullptr) {
      inputs.push_back(v);
      continue;
    }
    Node* p = producer(v, "reshape");
    if (p != nullptr && same_dims(v, n->output(0)) && same_dims(p->input(0), r->input(0))) inputs.push_back(p->input(0));
    else if (v->type.ranked && v->type.dims.empty()) inputs.push_back(v);
    else if (scalar_of(v) && rank_of(v) <= rank_of(r->input(0))) inputs.push_back(v);
    else if (last && rank_of(v) == 1 && v->type.dims[0] == r->input(0)->type.dims.back()) inputs.push_back(v);
    else return false;
  }
  return sink(n, inputs, {n});
}

}  // namespace

int sink_reshapes(Graph& graph, PassContext&) {
  int moved = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (n->num_outputs() == 0 || !is_float(n->output(0))) continue;
    const bool done = n->is("matmul")                            ? matmul(n)
                      : n->is("layer_norm") || n->is("rms_norm") ? norm(n)
                                                                 : n->op().is_pointwise() && !n->is("fused") && pointwise(n);
    if (!done) continue;
    erase_if_dead(n);
    ++moved;
  }
  return moved;
}

}  // namespace tokamak::passes
