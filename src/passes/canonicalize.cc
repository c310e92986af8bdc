// Small local simplifications, each true by itself: identities, double casts and reshapes, arithmetic with neutral constants. They bring
// what different exporters write into one form, so that the recognisers further down need fewer patterns.

#include <cmath>
#include <limits>
#include <unordered_map>

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

bool becomes(Node* n, Value* v) {
  if (v == nullptr || n->output(0)->type.dtype != v->type.dtype) return false;
  const bool was_identity = n->is("identity");
  const bool had_uses = !n->output(0)->uses().empty();
  replace(n->output(0), v);
  return !was_identity || had_uses || !n->output(0)->is_graph_output();
}

// The operand x of a binary node beside a constant that is `neutral` everywhere, if the result keeps x's shape.
Value* beside_neutral(Node* n, double neutral, bool either_side) {
  for (int i = 0; i < 2; ++i) {
    if (i == 1 && !either_side) break;
    const auto c = splat_of(n->input(1 - i));
    if (c && *c == neutral && same_dims(n->input(i), n->output(0))) return n->input(i);
  }
  return nullptr;
}

bool new_node(Node* n, std::string_view op, std::vector<Value*> inputs, Attrs attrs = {}) {
  Value* v = n->graph()->build(op, std::move(inputs), std::move(attrs), n, n->name);
  v->producer()->origin = n->origin;
  return becomes(n, v);
}

bool identity(Node* n) { return becomes(n, n->input(0)); }

bool cast(Node* n) {
  Value* x = n->input(0);
  const DType to = n->attrs.get_dtype("to");
  if (x->type.dtype == to) return becomes(n, x);
  Node* inner = producer(x, "cast");
  if (inner == nullptr) return false;
  const DType a = inner->input(0)->type.dtype, b = x->type.dtype;
  const bool widens = a == DType::Bool || (a == DType::I32 && b == DType::I64) ||
                      ((a == DType::F16 || a == DType::BF16) && (b == DType::F32 || b == DType::F64)) ||
                      (a == DType::F32 && b == DType::F64);
  return widens && new_node(n, "cast", {inner->input(0)}, n->attrs);
}

bool reshape(Node* n) {
  Value* x = n->input(0);
  if (same_dims(x, n->output(0))) return becomes(n, x);
  if (n->num_inputs() > 1) return false;
  Node* inner = producer(x, "reshape");
  if (inner != nullptr && same_dims(inner->input(0), n->output(0))) return becomes(n, inner->input(0));
  return inner != nullptr && new_node(n, "reshape", {inner->input(0)}, n->attrs);
}

bool transpose(Node* n) {
  const Ints perm = perm_of(n);
  if (is_identity_perm(perm)) return becomes(n, n->input(0));
  Node* inner = producer(n->input(0), "transpose");
  if (inner == nullptr) return false;
  const Ints both = compose_perm(perm_of(inner), perm);
  return is_identity_perm(both) ? becomes(n, inner->input(0)) : new_node(n, "transpose", {inner->input(0)}, {{"perm", both}});
}

// reshape [..., S, D] -> [P, S, D], transpose (0, 2, 1), reshape -> [..., D, S]: exporters swap the last two axes in this way.
bool reshape_of_transpose(Node* n) {
  Node* t = producer(n->input(0), "transpose");
  if (t == nullptr || !n->output(0)->type.ranked) return false;
  Node* r = producer(t->input(0), "reshape");
  if (r == nullptr || perm_of(t) != Ints{0, 2, 1}) return false;
  Value* x = r->input(0);
  const int64_t rank = rank_of(x);
  if (rank < 3 || rank_of(n->output(0)) != rank) return false;
  const Dims &from = x->type.dims, &mid = r->output(0)->type.dims, &to = n->output(0)->type.dims;
  if (!(mid[1] == from[rank - 2]) || !(mid[2] == from[rank - 1])) return false;
  for (int64_t i = 0; i + 2 < rank; ++i)
    if (!(from[i] == to[i])) return false;
  if (!(to[rank - 2] == mid[2]) || !(to[rank - 1] == mid[1])) return false;
  Ints perm(rank);
  for (int64_t i = 0; i < rank; ++i) perm[i] = i;
  std::swap(perm[rank - 1], perm[rank - 2]);
  return new_node(n, "transpose", {x}, {{"perm", perm}});
}

bool expand(Node* n) {
  Value* x = n->input(0);
  if (same_dims(x, n->output(0))) return becomes(n, x);
  if (!x->type.ranked || !n->output(0)->type.ranked) return false;
  // A pointwise user that broadcasts to the same shape anyway reads x itself.
  bool changed = false;
  const std::vector<ir::Use> uses(n->output(0)->uses().begin(), n->output(0)->uses().end());
  for (const ir::Use& u : uses) {
    if (!u.node->op().is_pointwise() || u.node->graph() != n->graph() || !u.node->output(0)->type.ranked) continue;
    std::optional<Dims> shape = x->type.dims;
    for (int i = 0; i < u.node->num_inputs() && shape; ++i) {
      const Value* other = u.node->input(i);
      if (i == u.index || other == nullptr) continue;
      shape = other->type.ranked ? broadcast(*shape, other == n->output(0) ? x->type.dims : other->type.dims) : std::nullopt;
    }
    if (!shape || *shape != u.node->output(0)->type.dims) continue;
    u.node->set_input(u.index, x);
    changed = true;
  }
  return changed;
}

bool concat(Node* n) {
  if (n->num_inputs() == 1) return becomes(n, n->input(0));
  const int64_t rank = rank_of(n->output(0));
  if (rank < 0) return false;
  const int64_t axis = normalized_axes({n->attrs.get_int("axis")}, rank)[0];
  std::vector<Value*> flat;
  bool nested = false, shorter = false;
  for (Value* v : n->inputs()) {
    if (v->type.ranked && v->type.dims[axis].is(0)) {
      shorter = true;
      continue;
    }
    Node* inner = sole_producer(v, "concat");
    if (inner != nullptr && normalized_axes({inner->attrs.get_int("axis")}, rank)[0] == axis) {
      flat.insert(flat.end(), inner->inputs().begin(), inner->inputs().end());
      nested = true;
    } else {
      flat.push_back(v);
    }
  }
  if ((!nested && !shorter) || flat.empty()) return false;
  if (flat.size() == 1) return becomes(n, flat[0]);
  return new_node(n, "concat", flat, {{"axis", axis}});
}

// A slice that keeps the shape with positive steps takes everything.
bool slice(Node* n) {
  if (!same_dims(n->input(0), n->output(0))) return false;
  if (n->attrs.has("steps")) {
    for (int64_t s : n->attrs.get_ints("steps"))
      if (s != 1) return false;
  } else if (n->num_inputs() > 4 && n->input(4) != nullptr) {
    const auto steps = known_ints(n->input(4));
    if (!steps) return false;
    for (int64_t s : *steps)
      if (s != 1) return false;
  }
  return becomes(n, n->input(0));
}

bool pad(Node* n) {
  if (n->input(1) != nullptr || !n->attrs.has("pads")) return false;
  for (int64_t p : n->attrs.get_ints("pads"))
    if (p != 0) return false;
  return becomes(n, n->input(0));
}

bool split(Node* n) { return n->num_outputs() == 1 && becomes(n, n->input(0)); }

bool add(Node* n) { return becomes(n, beside_neutral(n, 0, true)); }
bool sub(Node* n) {
  Value* x = beside_neutral(n, 0, false);
  return x != nullptr && becomes(n, x);
}
bool mul(Node* n) { return becomes(n, beside_neutral(n, 1, true)); }

bool div(Node* n) {
  if (Value* x = beside_neutral(n, 1, false)) return becomes(n, x);
  if (!is_f32(n->output(0))) return false;
  Value* c = n->input(1);
  if (is_scalar(n->input(0), 1, 0)) {  // 1 / sqrt(x), 1 / x
    if (Node* root = producer(c, "sqrt"); root != nullptr && same_dims(c, n->output(0))) return new_node(n, "rsqrt", {root->input(0)});
    return same_dims(c, n->output(0)) && !c->is_constant() && new_node(n, "reciprocal", {c});
  }
  if (!c->is_constant() || n->input(0)->is_constant() || c->constant.count() > 65536) return false;
  std::vector<float> inverse = floats_of(c);
  for (float& f : inverse) {
    if (f == 0 || !std::isfinite(f) || !std::isfinite(1 / f)) return false;
    f = 1 / f;
  }
  return new_node(n, "mul", {n->input(0), constant_f32(*n->graph(), c->constant.shape(), inverse)});
}

bool reciprocal(Node* n) {
  Node* root = producer(n->input(0), "sqrt");
  return root != nullptr && new_node(n, "rsqrt", {root->input(0)});
}

bool pow(Node* n) {
  const auto e = splat_of(n->input(1));
  Value* x = n->input(0);
  if (!e || x->is_constant() || !same_dims(x, n->output(0))) return false;
  if (*e == 1) return becomes(n, x);
  if (*e == 2) return new_node(n, "mul", {x, x});
  if (!is_f32(x)) return false;
  if (*e == 3) return new_node(n, "mul", {n->graph()->build("mul", {x, x}, {}, n), x});
  if (*e == 0.5) return new_node(n, "sqrt", {x});
  if (*e == -0.5) return new_node(n, "rsqrt", {x});
  if (*e == -1) return new_node(n, "reciprocal", {x});
  return false;
}

bool logical_and(Node* n) {
  if (n->input(0) == n->input(1)) return becomes(n, n->input(0));
  return becomes(n, beside_neutral(n, 1, true));
}
bool logical_or(Node* n) {
  if (n->input(0) == n->input(1)) return becomes(n, n->input(0));
  return becomes(n, beside_neutral(n, 0, true));
}
bool logical_not(Node* n) {
  Node* inner = producer(n->input(0), "not");
  return inner != nullptr && becomes(n, inner->input(0));
}
bool neg(Node* n) {
  Node* inner = producer(n->input(0), "neg");
  return inner != nullptr && becomes(n, inner->input(0));
}

bool where(Node* n) {
  Value *a = n->input(1), *b = n->input(2);
  if (a == b && same_dims(a, n->output(0))) return becomes(n, a);
  const auto c = splat_of(n->input(0));
  if (!c) return false;
  Value* taken = *c != 0 ? a : b;
  return same_dims(taken, n->output(0)) && becomes(n, taken);
}

bool minimum(Node* n) { return is_float(n->output(0)) && becomes(n, beside_neutral(n, kInf, true)); }
bool maximum(Node* n) { return is_float(n->output(0)) && becomes(n, beside_neutral(n, -kInf, true)); }

bool clip(Node* n) {
  if (!is_float(n->output(0))) return false;
  double lo = n->attrs.get_float("min", -kInf), hi = n->attrs.get_float("max", kInf);
  for (int i = 1; i <= 2; ++i) {  // constant limits become attributes
    if (n->input(i) == nullptr) continue;
    const auto limit = scalar_of(n->input(i));
    if (!limit) return false;
    (i == 1 ? lo : hi) = *limit;
  }
  const double largest = std::numeric_limits<float>::max();
  if (lo <= -largest && hi >= largest) return becomes(n, n->input(0));
  if (n->num_inputs() == 1 && !(lo == 0 && hi >= largest)) return false;
  if (lo == 0 && hi >= largest) return new_node(n, "relu", {n->input(0)});
  Attrs attrs;
  if (lo > -largest) attrs.set("min", lo);
  if (hi < largest) attrs.set("max", hi);
  return new_node(n, "clip", {n->input(0)}, attrs);
}

using Rule = bool (*)(Node*);
const std::unordered_multimap<std::string_view, Rule>& rules() {
  static const std::unordered_multimap<std::string_view, Rule> table = {
      {"identity", identity},
      {"cast", cast},
      {"reshape", reshape},
      {"reshape", reshape_of_transpose},
      {"transpose", transpose},
      {"expand", expand},
      {"concat", concat},
      {"slice", slice},
      {"split", split},
      {"pad", pad},
      {"add", add},
      {"sub", sub},
      {"mul", mul},
      {"div", div},
      {"pow", pow},
      {"reciprocal", reciprocal},
      {"and", logical_and},
      {"or", logical_or},
      {"not", logical_not},
      {"neg", neg},
      {"where", where},
      {"min", minimum},
      {"max", maximum},
      {"clip", clip},
  };
  return table;
}

}  // namespace

int canonicalize(Graph& graph, PassContext&) {
  int rewrites = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (n->num_outputs() == 0 || n->output(0) == nullptr) continue;
    const auto [begin, end] = rules().equal_range(n->op().name);
    for (auto it = begin; it != end; ++it) {
      if (!it->second(n)) continue;
      ++rewrites;
      erase_if_dead(n);
      break;
    }
  }
  return rewrites;
}

}  // namespace tokamak::passes
