// layer_norm and rms_norm over the last axis, from the primitive chains of exporters (older opsets, and every rms_norm), and their scale
// and bias where those follow as a multiplication and an addition.

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

// The operand of a mean over the last axis that keeps it.
Value* mean_over_last(Value* v) {
  Node* n = producer(v, "reduce_mean");
  if (n == nullptr || n->attrs.get_int("keepdims", 1) != 1 || !n->attrs.has("axes")) return nullptr;
  const int64_t rank = rank_of(n->input(0));
  const Ints axes = n->attrs.get_ints("axes");
  if (axes.size() != 1 || (axes[0] != -1 && axes[0] != rank - 1)) return nullptr;
  return n->input(0);
}

// x when `v` is x * x.
Value* square_of(Value* v) {
  Node* m = producer(v, "mul");
  if (m != nullptr && m->input(0) == m->input(1)) return m->input(0);
  Node* p = producer(v, "pow");
  return p != nullptr && is_scalar(p->input(1), 2) ? p->input(0) : nullptr;
}

// For variance + epsilon: the variance, storing epsilon.
Value* minus_epsilon(Value* v, double* epsilon) {
  Node* a = producer(v, "add");
  return a != nullptr ? beside_scalar(a, epsilon) : nullptr;
}

// For a normalised value: x * rsqrt(var + eps) or x / sqrt(var + eps). Returns var and stores x.
Value* split_normalised(Node* n, Value** x, double* epsilon) {
  if (n->is("div")) {
    Node* root = producer(n->input(1), "sqrt");
    *x = n->input(0);
    return root != nullptr ? minus_epsilon(root->input(0), epsilon) : nullptr;
  }
  if (!n->is("mul")) return nullptr;
  for (int i = 0; i < 2; ++i) {
    Node* r = producer(n->input(i), "rsqrt");
    if (r == nullptr) continue;
    *x = n->input(1 - i);
    if (Value* var = minus_epsilon(r->input(0), epsilon)) return var;
  }
  return nullptr;
}

// A vector as long as the last axis, as 1-D; null if `v` is not one.
Value* as_vector(Value* v, const Value* x, Node* before) {
  if (v == nullptr || !v->type.ranked || v->type.dtype != x->type.dtype || !is_row_vector(v, x->type.dims.back())) return nullptr;
  if (v->type.rank() == 1) return v;
  return before->graph()->build("reshape", {v}, {{"shape", Dims{v->type.dims.back()}}}, before);
}

bool normalise(Node* n) {
  Value* x = nullptr;
  double epsilon = 0;
  Value* var = split_normalised(n, &x, &epsilon);
  if (var == nullptr || !is_float(x) || rank_of(x) < 1) return false;
  Value* squared = mean_over_last(var);
  if (squared == nullptr || square_of(squared) != x) return false;
  Value* input = x;
  std::string_view op = "rms_norm";
  if (Node* centre = producer(x, "sub"); centre != nullptr && mean_over_last(centre->input(1)) == centre->input(0)) {
    input = centre->input(0);
    op = "layer_norm";
  }
  Graph& graph = *n->graph();
  Value* v = graph.build(op, {input}, {{"axis", int64_t{-1}}, {"epsilon", epsilon}}, n, n->name);
  v->producer()->origin = merged_origin({squared->producer(), n});
  replace(n->output(0), v);
  return true;
}

// norm(x) * scale, norm(x) * scale + bias
bool absorb(Node* n) {
  for (int i = 0; i < 2; ++i) {
    Value* v = n->input(i);
    Node* norm = sole_producer(v, "layer_norm");
    if (norm == nullptr) norm = sole_producer(v, "rms_norm");
    if (norm == nullptr || norm->num_outputs() > 1 || n->input(0) == n->input(1)) continue;
    const bool scale = n->is("mul") && norm->input(1) == nullptr && norm->input(2) == nullptr;
    const bool bias = n->is("add") && norm->is("layer_norm") && norm->input(2) == nullptr && norm->input(1) != nullptr;
    if (!scale && !bias) continue;
    if (!same_dims(v, n->output(0)) || norm->attrs.get_int("axis", -1) != -1) continue;
    Value* vector = as_vector(n->input(1 - i), v, n);
    if (vector == nullptr) continue;
    std::vector<Value*> inputs{norm->input(0)};
    if (scale) inputs.push_back(vector);
    else inputs.insert(inputs.end(), {norm->input(1), vector});
    Value* out = n->graph()->build(norm->op().name, inputs, norm->attrs, n, norm->name);
    out->producer()->origin = merged_origin({norm, n});
    replace(n->output(0), out);
    return true;
  }
  return false;
}

// PyTorch's group norm: instance_norm over [N,G,M] between reshapes from and to [N,C,H,W], with neutral scale and bias of its own.
bool group_norm(Node* back) {
  Node* norm = sole_producer(back->input(0), "instance_norm");
  Node* there = norm != nullptr ? sole_producer(norm->input(0), "reshape") : nullptr;
  if (there == nullptr || rank_of(norm->input(0)) != 3 || splat_of(norm->input(1)) != 1.0 || splat_of(norm->input(2)) != 0.0) return false;
  Value* x = there->input(0);
  const Dim& groups = norm->input(0)->type.dims[1];
  if (!is_f32(x) || rank_of(x) < 3 || !same_dims(x, back->output(0)) || !x->type.dims[1].is_const() || !groups.is_const()) return false;
  const int64_t channels = x->type.dims[1].value();
  if (!(norm->input(0)->type.dims[0] == x->type.dims[0]) || groups.value() < 1 || channels % groups.value() != 0) return false;
  Graph& graph = *back->graph();
  Value* v = graph.build("group_norm",
                         {x, constant_f32(graph, {channels}, std::vector<float>(channels, 1)),
                          constant_f32(graph, {channels}, std::vector<float>(channels, 0))},
                         {{"num_groups", groups.value()}, {"epsilon", norm->attrs.get_float("epsilon", 1e-5)}}, back, norm->name);
  v->producer()->origin = merged_origin({there, norm, back});
  replace(back->output(0), v);
  return true;
}

// The neutral scale or bias of a group_norm takes the constants that follow it, one a channel.
bool absorb_channels(Node* n) {
  for (int i = 0; i < 2; ++i) {
    Node* norm = sole_producer(n->input(i), "group_norm");
    Value* c = n->input(1 - i);
    if (norm == nullptr || !c->is_constant() || !is_f32(c) || !same_dims(n->input(i), n->output(0))) continue;
    const int which = n->is("mul") ? 1 : 2;
    if (which == 1 && (splat_of(norm->input(1)) != 1.0 || splat_of(norm->input(2)) != 0.0)) continue;
    if (which == 2 && splat_of(norm->input(2)) != 0.0) continue;
    const int64_t channels = norm->input(1)->constant.count(), rank = rank_of(n->output(0)), offset = rank - c->constant.rank();
    bool per_channel = c->constant.count() == channels && offset >= 0 && offset <= 1;
    for (int64_t d = 0; d < c->constant.rank(); ++d) per_channel = per_channel && (c->constant.dim(d) == 1 || d + offset == 1);
    if (!per_channel) continue;
    std::vector<Value*> inputs(norm->inputs().begin(), norm->inputs().end());
    inputs[which] = n->graph()->add_constant(c->constant.reshaped({channels}), c->name);
    Value* v = n->graph()->build("group_norm", inputs, norm->attrs, n, norm->name);
    v->producer()->origin = merged_origin({norm, n});
    replace(n->output(0), v);
    return true;
  }
  return false;
}

}  // namespace

int fuse_norms(Graph& graph, PassContext&) {
  int fused = 0;
  for (Node* n : graph.nodes_snapshot()) {
    const bool done = ((n->is("mul") || n->is("div")) && normalise(n)) ||
                      ((n->is("mul") || n->is("add")) && (absorb(n) || absorb_channels(n))) || (n->is("reshape") && group_norm(n));
    if (!done) continue;
    erase_if_dead(n);
    ++fused;
  }
  return fused;
}

}  // namespace tokamak::passes
