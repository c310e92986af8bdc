// Moves transposes down, through pointwise operations, concat, split, slice, pad, reductions and reshapes that only split or merge axes,
// until they meet their inverse and cancel (canonicalize merges neighbours). After choose_layout this is what leaves a whole convolution
// network in NHWC; in transformers it joins the swaps around attention.

#include <algorithm>

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

// [N,H,W,C] -> [N,C,H,W] and its likes of rank 3 to 5: what choose_layout leaves behind every convolution.
bool is_channels_first(const Ints& perm) {
  const int64_t r = static_cast<int64_t>(perm.size());
  if (r < 3 || perm[0] != 0 || perm[1] != r - 1) return false;
  for (int64_t i = 2; i < r; ++i)
    if (perm[i] != i - 1) return false;
  return true;
}

Node* transposed(const Value* v) {
  Node* t = producer(v, "transpose");
  return t != nullptr && !t->input(0)->is_constant() ? t : nullptr;
}

// Whether the transpose may be moved although others read it too: in convolution networks every reader will follow.
bool movable(const Node* t, const Node* user) { return sole_user(t->output(0)) == user || is_channels_first(perm_of(t)); }

// `v` as seen before the transpose `perm`: rank completed with leading ones, axes moved back. Null if it cannot be had cheaply.
Value* before_perm(Value* v, const Ints& perm, Node* at, bool allow_transpose) {
  const int64_t rank = static_cast<int64_t>(perm.size());
  if (rank_of(v) < 0 || rank_of(v) > rank) return nullptr;
  if (std::all_of(v->type.dims.begin(), v->type.dims.end(), [](const Dim& d) { return d.is(1); }) && rank_of(v) <= 1) return v;
  Graph& graph = *at->graph();
  Dims dims(rank - rank_of(v), Dim(1));
  dims.insert(dims.end(), v->type.dims.begin(), v->type.dims.end());
  const Ints back = inverse_perm(perm);
  if (v->is_constant() && v->constant.layout().empty() && v->constant.dtype() != DType::String) {
    Shape shape;
    for (const Dim& d : dims) shape.push_back(d.value());
    Value* full = graph.add_constant(v->constant.reshaped(shape), v->name);
    return graph.build("transpose", {full}, {{"perm", back}}, at);  // folded later
  }
  // With at most one axis that is not 1, moving it is a reshape.
  int64_t wide = 0;
  for (const Dim& d : dims) wide += !d.is(1);
  if (!allow_transpose && wide > 1) return nullptr;
  if (!only_input_symbols(graph, dims)) return nullptr;
  Value* full = rank_of(v) == rank ? v : graph.build("reshape", {v}, {{"shape", dims}}, at);
  return graph.build("transpose", {full}, {{"perm", back}}, at);
}

bool finish(Node* n, Value* y, const Ints& perm) {
  y->producer()->origin = merged_origin({n});
  replace(n->output(0), is_identity_perm(perm) ? y : n->graph()->build("transpose", {y}, {{"perm", perm}}, n));
  return true;
}

bool pointwise(Node* n) {
  if (n->num_outputs() != 1 || !n->output(0)->type.ranked) return false;
  Node* t = nullptr;
  int64_t others = 0;
  for (Value* v : n->inputs()) {
    Node* p = transposed(v);
    if (p != nullptr && t == nullptr && same_dims(v, n->output(0)) && movable(p, n)) t = p;
  }
  if (t == nullptr) return false;
  const Ints perm = perm_of(t);
  // An operand that is not transposed yet gets a transpose of its own only if the result is transposed back at once.
  Node* user = sole_user(n->output(0));
  const bool undone = user != nullptr && user->is("transpose") && is_identity_perm(compose_perm(perm, perm_of(user)));
  std::vector<Value*> inputs;
  for (Value* v : n->inputs()) {
    Node* p = transposed(v);
    if (v == nullptr) inputs.push_back(nullptr);
    else if (p != nullptr && perm_of(p) == perm) inputs.push_back(p->input(0));
    else {
      Value* w = before_perm(v, perm, n, undone && ++others == 1);
      if (w == nullptr) return false;
      inputs.push_back(w);
    }
  }
  return finish(n, n->graph()->build(n->op().name, inputs, n->attrs, n, n->name), perm);
}

bool concat(Node* n) {
  Node* t = transposed(n->input(0));
  if (t == nullptr || rank_of(n->output(0)) < 0) return false;
  const Ints perm = perm_of(t);
  std::vector<Value*> inputs;
  for (Value* v : n->inputs()) {
    Node* p = transposed(v);
    if (p == nullptr || perm_of(p) != perm || !movable(p, n)) return false;
    inputs.push_back(p->input(0));
  }
  const int64_t axis = normalized_axes({n->attrs.get_int("axis")}, static_cast<int64_t>(perm.size()))[0];
  return finish(n, n->graph()->build("concat", inputs, {{"axis", perm[axis]}}, n, n->name), perm);
}

bool split(Node* n) {
  Node* t = transposed(n->input(0));
  if (t == nullptr || !movable(t, n) || n->num_inputs() != 1) return false;
  const Ints perm = perm_of(t);
  Attrs attrs = n->attrs;
  attrs.set("axis", perm[normalized_axes({n->attrs.get_int("axis")}, static_cast<int64_t>(perm.size()))[0]]);
  Graph& graph = *n->graph();
  Node* s = graph.add_node("split", {t->input(0)}, attrs, n->name, n, n->num_outputs());
  s->origin = merged_origin({n});
  for (int i = 0; i < n->num_outputs(); ++i) replace(n->output(i), graph.build("transpose", {s->output(i)}, {{"perm", perm}}, n));
  return true;
}

bool slice(Node* n) {
  Node* t = transposed(n->input(0));
  if (t == nullptr || n->num_inputs() != 1 || !n->attrs.has("axes")) return false;
  if (!movable(t, n)) return false;
  const Ints perm = perm_of(t);
  Attrs attrs = n->attrs;
  Ints axes = normalized_axes(n->attrs.get_ints("axes"), static_cast<int64_t>(perm.size()));
  for (int64_t& a : axes) a = perm[a];
  attrs.set("axes", axes);
  return finish(n, n->graph()->build("slice", {t->input(0)}, attrs, n, n->name), perm);
}

bool pad(Node* n) {
  Node* t = transposed(n->input(0));
  if (t == nullptr || !movable(t, n) || !n->attrs.has("pads") || n->input(1) != nullptr) return false;
  const Ints perm = perm_of(t);
  const int64_t rank = static_cast<int64_t>(perm.size());
  Attrs attrs = n->attrs;
  if (n->attrs.has("axes")) {
    Ints axes = normalized_axes(n->attrs.get_ints("axes"), rank);
    for (int64_t& a : axes) a = perm[a];
    attrs.set("axes", axes);
  } else {
    const Ints pads = n->attrs.get_ints("pads");
    Ints moved(2 * rank);
    for (int64_t i = 0; i < rank; ++i) {
      moved[perm[i]] = pads[i];
      moved[rank + perm[i]] = pads[rank + i];
    }
    attrs.set("pads", moved);
  }
  std::vector<Value*> inputs(n->inputs().begin(), n->inputs().end());
  inputs[0] = t->input(0);
  return finish(n, n->graph()->build("pad", inputs, attrs, n, n->name), perm);
}

bool reduce(Node* n) {
  Node* t = transposed(n->input(0));
  if (t == nullptr || n->num_inputs() != 1 || !n->attrs.has("axes") || !movable(t, n)) return false;
  const Ints perm = perm_of(t);
  const int64_t rank = static_cast<int64_t>(perm.size());
  Ints axes = normalized_axes(n->attrs.get_ints("axes"), rank);
  Ints moved;
  for (int64_t a : axes) moved.push_back(perm[a]);
  std::sort(moved.begin(), moved.end());
  Attrs attrs = n->attrs;
  attrs.set("axes", moved);
  Ints after = perm;
  if (n->attrs.get_int("keepdims", 1) == 0) {  // the order of the axes that stay
    Ints kept;
    for (int64_t i = 0; i < rank; ++i)
      if (std::find(axes.begin(), axes.end(), i) == axes.end()) kept.push_back(perm[i]);
    Ints sorted = kept;
    std::sort(sorted.begin(), sorted.end());
    after.clear();
    for (int64_t k : kept) after.push_back(std::find(sorted.begin(), sorted.end(), k) - sorted.begin());
  }
  return finish(n, n->graph()->build(n->op().name, {t->input(0)}, attrs, n, n->name), after);
}

bool softmax(Node* n) {
  Node* t = transposed(n->input(0));
  if (t == nullptr || !movable(t, n)) return false;
  const Ints perm = perm_of(t);
  const int64_t rank = static_cast<int64_t>(perm.size());
  const int64_t axis = perm[normalized_axes({n->attrs.get_int("axis", -1)}, rank)[0]];
  if (axis != rank - 1) return false;  // it would leave the contiguous axis
  return finish(n, n->graph()->build(n->op().name, {t->input(0)}, {{"axis", axis}}, n, n->name), perm);
}

// The shape of a transposed tensor is the tensor's, reordered: reading it must not keep the transpose alive.
bool shape(Node* n) {
  Node* t = producer(n->input(0), "transpose");
  if (t == nullptr) return false;
  const Ints perm = perm_of(t);
  const int64_t rank = static_cast<int64_t>(perm.size());
  const auto at = [&](int64_t i) { return std::clamp<int64_t>(i < 0 ? i + rank : i, 0, rank); };
  const int64_t start = at(n->attrs.get_int("start", 0)), end = n->attrs.has("end") ? at(n->attrs.get_int("end")) : rank;
  if (start >= end) return false;
  Graph& graph = *n->graph();
  Value* whole = graph.build("shape", {t->input(0)}, {{"start", int64_t{0}}}, n);
  const Ints wanted(perm.begin() + start, perm.begin() + end);
  Value* order = graph.add_constant(Tensor::of<int64_t>({end - start}, wanted));
  replace(n->output(0), graph.build("gather", {whole, order}, {{"axis", int64_t{0}}}, n, n->name));
  return true;
}

// quantize and dequantize: per tensor, or per a channel whose axis moves along.
bool quantization(Node* n) {
  Node* t = transposed(n->input(0));
  if (t == nullptr || !movable(t, n) || n->attrs.get_int("block_size", 0) != 0) return false;
  const Ints perm = perm_of(t);
  std::vector<Value*> inputs(n->inputs().begin(), n->inputs().end());
  inputs[0] = t->input(0);
  Attrs attrs = n->attrs;
  if (rank_of(n->input(1)) > 0)
    attrs.set("axis", perm[normalized_axes({n->attrs.get_int("axis", 1)}, static_cast<int64_t>(perm.size()))[0]]);
  else attrs.erase("axis");
  return finish(n, n->graph()->build(n->op().name, inputs, attrs, n, n->name), perm);
}

// For a reshape whose output axes are runs of input axes or the other way round: groups[i] = {input axes, output axes}, in order.
struct Group {
  Ints in, out;
};
std::optional<std::vector<Group>> axis_groups(const Dims& in, const Dims& out) {
  std::vector<Group> groups;
  size_t i = 0, o = 0;
  while (i < in.size() && o < out.size()) {
    Group g;
    Dim a = in[i], b = out[o];
    g.in.push_back(static_cast<int64_t>(i++));
    g.out.push_back(static_cast<int64_t>(o++));
    if (!(a == b)) {
      // Try merging input axes, else splitting one.
      Dim product = a;
      size_t j = i;
      while (j < in.size() && !(product == b)) product = product * in[j++];
      if (product == b) {
        for (; i < j; ++i) g.in.push_back(static_cast<int64_t>(i));
      } else {
        product = b;
        j = o;
        while (j < out.size() && !(product == a)) product = product * out[j++];
        if (!(product == a)) return std::nullopt;
        for (; o < j; ++o) g.out.push_back(static_cast<int64_t>(o));
      }
    }
    groups.push_back(g);
  }
  for (; i < in.size(); ++i) {
    if (!in[i].is(1) || groups.empty()) return std::nullopt;
    groups.back().in.push_back(static_cast<int64_t>(i));
  }
  for (; o < out.size(); ++o) {
    if (!out[o].is(1) || groups.empty()) return std::nullopt;
    groups.back().out.push_back(static_cast<int64_t>(o));
  }
  return groups;
}

bool reshape(Node* n) {
  Node* t = transposed(n->input(0));
  if (t == nullptr || n->num_inputs() != 1 || !n->output(0)->type.ranked || sole_user(t->output(0)) != n) return false;
  const Ints perm = perm_of(t);
  const auto groups = axis_groups(n->input(0)->type.dims, n->output(0)->type.dims);
  if (!groups) return false;
  // Groups in the order of their data before the transpose.
  std::vector<size_t> order(groups->size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto first = [&](size_t g) {
    int64_t at = perm[(*groups)[g].in[0]];
    for (int64_t a : (*groups)[g].in) at = std::min(at, perm[a]);
    return at;
  };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return first(a) < first(b); });
  Ints inner;  // what is left to do before the reshape
  Dims dims;   // of the new reshape
  Ints place(rank_of(n->output(0)));
  for (size_t g : order) {
    for (int64_t a : (*groups)[g].in) inner.push_back(perm[a]);
    for (int64_t o : (*groups)[g].out) {
      place[o] = static_cast<int64_t>(dims.size());
      dims.push_back(n->output(0)->type.dims[o]);
    }
  }
  const bool clean = is_identity_perm(inner);
  // A transpose that stays before the reshape pays only where it moves channels about (channel shuffle) and the rest is the layout's.
  if (!clean && !(is_channels_first(place) && place.size() == 4 && inner.size() == 5 && inner[0] == 0 && inner[1] == 1 && inner[2] == 2))
    return false;
  if (clean && is_identity_perm(perm)) return false;
  Graph& graph = *n->graph();
  if (!only_input_symbols(graph, dims)) return false;
  Value* x = clean ? t->input(0) : graph.build("transpose", {t->input(0)}, {{"perm", inner}}, n);
  return finish(n, graph.build("reshape", {x}, {{"shape", dims}}, n, n->name), place);
}

bool sink(Node* n) {
  if (n->num_outputs() == 0 || n->num_inputs() == 0 || n->input(0) == nullptr) return false;
  const std::string_view op = n->op().name;
  if (op == "concat") return concat(n);
  if (op == "split") return split(n);
  if (op == "slice") return slice(n);
  if (op == "pad") return pad(n);
  if (op.starts_with("reduce_")) return reduce(n);
  if (op == "shape") return shape(n);
  if (op == "quantize" || op == "dequantize") return quantization(n);
  if (op == "softmax" || op == "log_softmax") return softmax(n);
  if (op == "reshape") return reshape(n);
  return n->op().is_pointwise() && op != "fused" && pointwise(n);
}

// transpose(transpose(x)) on the way, so that one sweep can cancel pairs.
bool merge(Node* n) {
  Node* t = n->is("transpose") ? producer(n->input(0), "transpose") : nullptr;
  if (t == nullptr) return false;
  const Ints perm = compose_perm(perm_of(t), perm_of(n));
  replace(n->output(0), is_identity_perm(perm) ? t->input(0) : n->graph()->build("transpose", {t->input(0)}, {{"perm", perm}}, n, n->name));
  return true;
}

}  // namespace

int sink_transposes(Graph& graph, PassContext& context) {
  return rewrite_until_settled(graph, context, [](Node* n) { return merge(n) || sink(n); });
}

}  // namespace tokamak::passes
