// Scaled dot-product attention, in the forms that exporters write:
//   softmax(mask(softcap(scale * q k^T))) v
// with the scale before the product (on q, or its root on q and k) or after it, the mask added (a float tensor, or where(c, 0, -inf), whose
// condition then becomes a boolean mask) or selected, a guard against rows without keys (where(isnan(p), 0, p)), and repeated key/value
// heads (grouped queries: expand + reshape). Transposes between [B,S,H,D] and [B,H,S,D] around it become the layout attributes, and where
// q, k and v are windows on one packed projection it is read as it lies (q_first, k_first, v_first).

#include <cmath>
#include <limits>

#include "passes/match.h"
#include "passes/pass.h"
#include "passes/strided_view.h"

namespace tokamak::passes {
namespace {

const Ints kSwapHeads = {0, 2, 1, 3};

bool is_minus_infinity(const Value* v) {
  const auto c = splat_of(v);
  return c && *c == -std::numeric_limits<double>::infinity();
}
// Also the lowest finite number, for selections after which a row never is masked out entirely by accident.
bool is_zero(const Value* v) {
  const auto c = splat_of(v);
  return c && *c == 0;
}

struct Match {
  Value *q = nullptr, *k = nullptr, *v = nullptr;
  std::vector<Value*> masks;  // to be added, or boolean
  double scale = 1, softcap = 0;
  std::vector<const Node*> nodes;
};

// Whether `v` is a product of matrices under scales, caps and masks.
bool leads_to_product(const Value* v, int depth) {
  const Node* n = v->producer();
  if (n == nullptr || depth > 6 || v->is_constant()) return false;
  if (n->is("matmul")) return rank_of(v) == 4;
  if (!n->is("mul") && !n->is("add") && !n->is("where") && !n->is("tanh")) return false;
  for (const Value* in : n->inputs())
    if (in != nullptr && in->type.dtype == v->type.dtype && leads_to_product(in, depth + 1)) return true;
  return false;
}

// Whether a mask leaves the scores' shape alone. Its last axis need not be provably theirs (a mask of another symbol): the product with v
// settles it, and attention refuses a mask that does not fit.
bool keeps_scores(const Value* scores, const Value* out) {
  if (rank_of(scores) != rank_of(out) || rank_of(out) < 1) return false;
  for (int64_t i = 0; i + 1 < rank_of(out); ++i)
    if (!(scores->type.dims[i] == out->type.dims[i])) return false;
  const Dim &a = scores->type.dims.back(), &b = out->type.dims.back();
  return a == b || (!a.is_const() && !b.is_const());
}

// The scores' side: from the softmax input back to matmul(q, k^T).
Node* walk_scores(Value* s, Match& m, Node* before) {
  bool seen_scale = false;
  for (int step = 0; step < 12; ++step) {
    Node* n = s->producer();
    if (n == nullptr || n->graph() != before->graph()) return nullptr;
    if (n->is("matmul")) return n;
    m.nodes.push_back(n);
    double c = 0;
    if (n->is("mul") && beside_scalar(n, &c) != nullptr) {
      Value* inner = beside_scalar(n, &c);
      Node* t = producer(inner, "tanh");
      double inverse = 0;
      Node* d = t != nullptr ? producer(t->input(0), "mul") : nullptr;
      if (t != nullptr) {
        if (d == nullptr || seen_scale || m.softcap != 0) return nullptr;
        Value* x = beside_scalar(d, &inverse);
        if (x == nullptr || std::fabs(inverse * c - 1) > 1e-4) return nullptr;
        m.softcap = c;
        m.nodes.push_back(t);
        m.nodes.push_back(d);
        s = x;
        continue;
      }
      m.scale *= c;
      seen_scale = true;
      s = inner;
      continue;
    }
    if (n->is("add")) {
      if (seen_scale || m.softcap != 0) return nullptr;  // scale * (q k^T + mask) is another formula
      const int side = leads_to_product(n->input(0), 0) ? 0 : leads_to_product(n->input(1), 0) ? 1 : -1;
      if (side < 0 || !keeps_scores(n->input(side), n->output(0))) return nullptr;
      m.masks.push_back(n->input(1 - side));
      s = n->input(side);
      continue;
    }
    if (n->is("where") && !seen_scale && m.softcap == 0) {
      Value* cond = n->input(0);
      if (is_minus_infinity(n->input(2)) && same_dims(n->input(1), n->output(0))) {
        m.masks.push_back(cond);
        s = n->input(1);
        continue;
      }
      if (is_minus_infinity(n->input(1)) && same_dims(n->input(2), n->output(0))) {
        m.masks.push_back(before->graph()->build("not", {cond}, {}, before));
        s = n->input(2);
        continue;
      }
    }
    return nullptr;
  }
  return nullptr;
}

Value* peel_scale(Value* v, double& scale) {
  double c = 0;
  for (Node* n = producer(v, "mul"); n != nullptr; n = producer(v, "mul")) {
    Value* inner = beside_scalar(n, &c);
    if (inner == nullptr || !same_dims(inner, v)) break;
    scale *= c;
    v = inner;
  }
  return v;
}

// [B,Hkv,S,D] when `v` repeats every head of it to [B,H,S,D]; else `v`.
Value* peel_repeat(Value* v) {
  Node* r = producer(v, "reshape");
  Node* e = r != nullptr ? producer(r->input(0), "expand") : nullptr;
  Node* u = e != nullptr ? producer(e->input(0), "reshape") : nullptr;
  if (u == nullptr || rank_of(v) != 4 || rank_of(e->output(0)) != 5 || rank_of(u->output(0)) != 5 || rank_of(u->input(0)) != 4) return v;
  Value* x = u->input(0);
  const Dims &from = x->type.dims, &one = u->output(0)->type.dims, &many = e->output(0)->type.dims, &to = v->type.dims;
  const bool ok = one[2].is(1) && one[1] == from[1] && one[3] == from[2] && one[4] == from[3] && many[1] == from[1] && many[3] == from[2] &&
                  many[4] == from[3] && to[1] == many[1] * many[2] && to[2] == from[2] && to[3] == from[3] && from[0] == to[0];
  return ok ? x : v;
}

// A mask that was expanded only to match: attention broadcasts by itself.
Value* peel_expand(Value* v) {
  Node* e = producer(v, "expand");
  return e != nullptr && rank_of(e->input(0)) == rank_of(v) ? e->input(0) : v;
}

// The condition of where(c, 0, -inf), as a boolean mask; else the mask itself.
Value* boolean_mask(Value* mask, Node* before) {
  Node* w = producer(mask, "where");
  if (w == nullptr) return mask;
  if (is_zero(w->input(1)) && is_minus_infinity(w->input(2))) return w->input(0);
  if (is_zero(w->input(2)) && is_minus_infinity(w->input(1))) return before->graph()->build("not", {w->input(0)}, {}, before);
  return mask;
}

struct Operand {
  Value* value;
  bool bshd;
};
// Reads [B,S,H,D] directly where a transpose made [B,H,S,D] of it.
Operand untranspose(Value* v) {
  Node* t = producer(v, "transpose");
  if (t != nullptr && perm_of(t) == kSwapHeads) return {t->input(0), true};
  Node* r = producer(v, "rope");  // rope(transpose(x)) == transpose(rope(x)): rotate in the other layout
  if (r != nullptr && r->attrs.get_string("layout", "BHSD") == "BHSD") {
    t = producer(r->input(0), "transpose");
    if (t != nullptr && perm_of(t) == kSwapHeads) {
      Attrs attrs = r->attrs;
      attrs.set("layout", std::string("BSHD"));
      Value* x = r->graph()->build("rope", {t->input(0), r->input(1), r->input(2)}, attrs, r, r->name);
      x->producer()->origin = r->origin;
      return {x, true};
    }
  }
  return {v, false};
}

bool is_swapped(const Value* v) {
  const Node* t = producer(v, "transpose");
  return t != nullptr && perm_of(t) == kSwapHeads;
}

// Heads [first, first + heads) of `source` read as [batch, length, all_heads, size].
struct Window {
  StridedView view;
  Dim batch, length;
  int64_t heads = 0, size = 0, first = 0, all_heads = 0;

  Dims dims() const { return {batch, length, Dim(all_heads), Dim(size)}; }
};

// `v` as a window; `sequence` and `depth` are its axes of these ([B,H,S,D] or, of k, [B,H,D,S]).
std::optional<Window> window_of(Value* v, int sequence, int depth) {
  Window w{strided_view(v), v->type.dims[0], v->type.dims[sequence]};
  const auto& axes = w.view.axes;
  for (const auto& axis : axes)
    if (axis.size() > 1) return std::nullopt;
  if (!v->type.dims[1].is_const() || !v->type.dims[depth].is_const() || !w.view.offset.is_const()) return std::nullopt;
  w.heads = v->type.dims[1].value(), w.size = v->type.dims[depth].value();
  const auto step = [&](int axis) { return axes[axis].empty() ? std::optional<Dim>() : axes[axis][0].stride; };
  if (w.size < 1 || w.heads < 1 || !step(depth).value_or(1).is(1) || !step(1).value_or(w.size).is(w.size)) return std::nullopt;
  Dim elements = 1;
  for (const Dim& d : w.view.source->type.dims) elements = elements * d;
  const Dim row = step(sequence).value_or(step(0).value_or(elements));
  if (!row.is_const() || row.value() % w.size != 0 || w.view.offset.value() % w.size != 0) return std::nullopt;
  if (!(step(0).value_or(w.length * row) == w.length * row) || !(elements == w.batch * w.length * row)) return std::nullopt;
  w.all_heads = row.value() / w.size, w.first = w.view.offset.value() / w.size;
  return w.first + w.heads <= w.all_heads ? std::optional(w) : std::nullopt;
}

// The source as [batch, length, all_heads, size].
Value* source_of(const Window& w, Node* before) {
  Value* source = w.view.source;
  if (source->type.dims == w.dims()) return source;
  return before->graph()->build("reshape", {source}, {{"shape", w.dims()}}, before);
}

bool attention(Node* softmax) {
  const int64_t rank = rank_of(softmax->output(0));
  if (rank != 4 || !is_float(softmax->output(0)) || normalized_axes({softmax->attrs.get_int("axis", -1)}, rank)[0] != rank - 1)
    return false;
  Match m;
  m.nodes.push_back(softmax);
  // Forward: the guard, then the product with v.
  Value* p = softmax->output(0);
  Node* root = sole_user(p);
  if (root == nullptr && p->uses().size() == 2 && !p->is_graph_output()) {
    Node* a = p->uses()[0].node;
    Node* b = p->uses()[1].node;
    if (b->is("isnan")) std::swap(a, b);
    if (a->is("isnan") && b->is("where") && b->input(0) == a->output(0) && is_zero(b->input(1)) && b->input(2) == p &&
        sole_user(a->output(0)) == b) {
      m.nodes.push_back(b);
      p = b->output(0);
      root = sole_user(p);
    }
  }
  const auto plain = [](const Node* n) {
    return n != nullptr && n->is("matmul") && n->num_inputs() == 2 && !n->attrs.has("epilogue") && n->attrs.get_int("trans_a", 0) == 0 &&
           n->attrs.get_float("alpha", 1) == 1;
  };
  if (!plain(root) || root->input(0) != p || root->input(1) == p || root->attrs.get_int("trans_b", 0) != 0) return false;
  m.v = root->input(1);
  Node* scores = walk_scores(softmax->input(0), m, softmax);
  if (!plain(scores) || rank_of(scores->output(0)) != 4 || rank_of(m.v) != 4 || sole_user(scores->output(0)) == nullptr) return false;
  m.nodes.push_back(scores);

  const double scale_behind = m.scale;
  m.q = peel_scale(scores->input(0), m.scale);
  double k_scale = 1;
  Value* kt = peel_scale(scores->input(1), k_scale);
  if (rank_of(m.q) != 4 || rank_of(kt) != 4) return false;
  Graph& graph = *root->graph();

  // k: from [B,H,D,S] (or [B,H,S,D] with trans_b) back to what it was before.
  bool k_bshd = false;
  if (scores->attrs.get_int("trans_b", 0) != 0) {
    m.k = kt;
  } else if (Node* t = producer(kt, "transpose")) {
    const Ints perm = perm_of(t);
    if (perm == Ints{0, 1, 3, 2}) m.k = peel_scale(t->input(0), k_scale);
    else if (perm == Ints{0, 2, 3, 1}) m.k = peel_scale(t->input(0), k_scale), k_bshd = true;
  }
  m.q = peel_scale(m.q, m.scale);

  // As windows where all three are, and something was packed or lies behind more than a plain transpose.
  const bool by_rows = scores->attrs.get_int("trans_b", 0) != 0;
  Value* const k_once = m.k != nullptr && !k_bshd ? peel_repeat(m.k) : m.k;
  const bool is_repeated = k_once != m.k;
  const std::optional<Window> windows[3] = {
      window_of(scores->input(0), 2, 3),
      is_repeated ? window_of(k_once, 2, 3) : window_of(scores->input(1), by_rows ? 2 : 3, by_rows ? 3 : 2),
      window_of(peel_repeat(m.v), 2, 3)};
  bool by_window = !is_swapped(m.q) || !is_swapped(peel_repeat(m.v)) || !(k_bshd || is_swapped(k_once));
  for (const auto& w : windows) by_window = by_window || (w && w->all_heads != w->heads);
  for (const auto& w : windows) by_window = by_window && w && only_input_symbols(graph, w->dims());
  by_window = by_window && windows[2]->view.scale == 1;
  Operand q, k, v;
  if (by_window) {
    m.scale = scale_behind * windows[0]->view.scale * windows[1]->view.scale * (is_repeated ? k_scale : 1);
    q = {source_of(*windows[0], root), true}, k = {source_of(*windows[1], root), true}, v = {source_of(*windows[2], root), true};
  } else {
    m.scale *= k_scale;
    if (m.k == nullptr) m.k = graph.build("transpose", {kt}, {{"perm", Ints{0, 1, 3, 2}}}, root);
    q = untranspose(m.q);
    k = k_bshd ? Operand{m.k, true} : untranspose(peel_repeat(m.k));
    v = untranspose(peel_repeat(m.v));
    if (!k.bshd && v.bshd) v = {graph.build("transpose", {v.value}, {{"perm", kSwapHeads}}, root), false};
    if (k.bshd && !v.bshd) k = {graph.build("transpose", {k.value}, {{"perm", kSwapHeads}}, root), false};
  }

  const auto heads = [&](const Operand& o, int i) { return by_window ? Dim(windows[i]->heads) : o.value->type.dims[o.bshd ? 2 : 1]; };
  const Dim hq = heads(q, 0), hk = heads(k, 1), hv = heads(v, 2);
  if (!hq.is_const() || !hk.is_const() || !(hk == hv) || hk.value() == 0 || hq.value() % hk.value() != 0) return false;
  const Dims &qd = q.value->type.dims, &kd = k.value->type.dims, &vd = v.value->type.dims;
  if (!(kd[k.bshd ? 1 : 2] == vd[v.bshd ? 1 : 2])) return false;
  if (!(qd[3] == kd[3]) || !(qd[0] == kd[0] || qd[0].is(1) == kd[0].is(1))) return false;

  // Masks: one boolean, or one float; several are combined.
  Value* mask = nullptr;
  for (Value* piece : m.masks) {
    piece = boolean_mask(peel_expand(piece), root);
    piece = peel_expand(piece);
    if (mask == nullptr) {
      mask = piece;
      continue;
    }
    const bool both_bool = mask->type.dtype == DType::Bool && piece->type.dtype == DType::Bool;
    const auto as_float = [&](Value* x) {
      if (x->type.dtype != DType::Bool) return x;
      return graph.build("where", {x, scalar_f32(graph, 0), scalar_f32(graph, -std::numeric_limits<double>::infinity())}, {}, root);
    };
    mask = both_bool ? graph.build("and", {mask, piece}, {}, root) : graph.build("add", {as_float(mask), as_float(piece)}, {}, root);
  }
  if (mask != nullptr && (rank_of(mask) < 0 || rank_of(mask) > 4)) return false;
  if (mask != nullptr && mask->type.dtype != DType::Bool && mask->type.dtype != q.value->type.dtype) return false;

  // The output's transpose, or its part that brings heads beside their elements.
  Node* last = root;
  Ints rest;
  bool out_bshd = false;
  if (Node* t = sole_user(root->output(0)); t != nullptr && t->is("transpose") && perm_of(t)[3] == 3) {
    last = t;
    out_bshd = true;
    rest = compose_perm(kSwapHeads, perm_of(t));
  }
  const auto layout = [](bool bshd) { return std::string(bshd ? "BSHD" : "BHSD"); };
  Attrs attrs{{"scale", m.scale},           {"is_causal", int64_t{0}},     {"softcap", m.softcap},
              {"q_layout", layout(q.bshd)}, {"kv_layout", layout(k.bshd)}, {"out_layout", layout(out_bshd)},
              {"q_heads", hq.value()},      {"kv_heads", hk.value()}};
  const char* const first_names[] = {"q_first", "k_first", "v_first"};
  for (int i = 0; by_window && i < 3; ++i)
    if (windows[i]->all_heads != windows[i]->heads) attrs.set(first_names[i], windows[i]->first);
  std::vector<Value*> inputs{q.value, k.value, v.value};
  if (mask != nullptr) inputs.push_back(mask);
  m.nodes.push_back(root);
  Value* out = graph.build("attention", inputs, attrs, last, root->name);
  out->producer()->origin = merged_origin(m.nodes);
  if (!rest.empty() && !is_identity_perm(rest)) out = graph.build("transpose", {out}, {{"perm", rest}}, last);
  replace(last->output(0), out);
  return true;
}

}  // namespace

int fuse_attention(Graph& graph, PassContext& context) {
  int fused = 0;
  for (bool again = true; again;) {
    again = false;
    for (const auto& n : graph.nodes()) {
      if (!n->is("softmax") || n->output(0)->uses().empty() || !attention(n.get())) continue;
      ++fused;
      again = true;
      break;
    }
    if (again) remove_dead(graph, context);
  }
  return fused;
}

}  // namespace tokamak::passes
