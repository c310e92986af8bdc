#include "passes/match.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "passes/pass.h"

namespace tokamak::passes {

Node* producer(const Value* v, std::string_view op) {
  if (v == nullptr || v->producer() == nullptr || !v->producer()->is(op)) return nullptr;
  return v->producer();
}

Node* sole_producer(const Value* v, std::string_view op) {
  Node* n = producer(v, op);
  return n != nullptr && sole_user(v) != nullptr ? n : nullptr;
}

Node* sole_user(const Value* v) {
  if (v == nullptr || v->uses().empty() || v->is_graph_output()) return nullptr;
  Node* user = v->uses()[0].node;
  for (const ir::Use& u : v->uses())
    if (u.node != user) return nullptr;
  return user->graph() == v->graph() ? user : nullptr;
}

Value* other_operand(const Node* node, const Value* v) {
  if (node->num_inputs() != 2) return nullptr;
  if (node->input(0) == v && node->input(1) != v) return node->input(1);
  if (node->input(1) == v && node->input(0) != v) return node->input(0);
  return nullptr;
}

std::optional<double> scalar_of(const Value* v) {
  if (v == nullptr || !v->is_constant() || v->constant.count() != 1 || v->constant.dtype() == DType::String) return std::nullopt;
  if (!v->constant.layout().empty()) return std::nullopt;
  return v->constant.float_at(0);
}

std::optional<double> splat_of(const Value* v) {
  if (v == nullptr || !v->is_constant() || v->constant.count() == 0 || v->constant.dtype() == DType::String) return std::nullopt;
  const Tensor& t = v->constant;
  if (t.count() > (1 << 20) || !t.layout().empty()) return std::nullopt;
  const double first = t.float_at(0);
  for (int64_t i = 1; i < t.count(); ++i)
    if (t.float_at(i) != first) return std::nullopt;
  return first;
}

bool is_scalar(const Value* v, double expected, double tolerance) {
  const auto s = scalar_of(v);
  return s && std::fabs(*s - expected) <= tolerance * std::max(std::fabs(expected), 1e-30);
}

Value* beside_scalar(const Node* node, double* scalar) {
  for (int i = 0; i < 2; ++i) {
    if (const auto s = scalar_of(node->input(1 - i)); s && node->input(i) != nullptr && !node->input(i)->is_constant()) {
      *scalar = *s;
      return node->input(i);
    }
  }
  return nullptr;
}

Value* beside(const Node* node, double expected, double tolerance) {
  if (node == nullptr || node->num_inputs() != 2) return nullptr;
  for (int i = 0; i < 2; ++i)
    if (is_scalar(node->input(1 - i), expected, tolerance)) return node->input(i);
  return nullptr;
}

std::optional<Ints> known_ints(const Value* v) {
  if (v == nullptr) return std::nullopt;
  if (v->is_constant() && (is_integer(v->constant.dtype()) || v->constant.dtype() == DType::Bool)) return v->constant.to_ints();
  if (!v->ints) return std::nullopt;
  Ints out;
  for (const Dim& d : *v->ints) {
    if (!d.is_const()) return std::nullopt;
    out.push_back(d.value());
  }
  return out;
}

bool is_float(const Value* v) {
  return v != nullptr && (v->type.dtype == DType::F32 || v->type.dtype == DType::F16 || v->type.dtype == DType::BF16);
}
bool is_f32(const Value* v) { return v != nullptr && v->type.dtype == DType::F32; }

bool same_dims(const Value* a, const Value* b) { return a->type.ranked && b->type.ranked && a->type.dims == b->type.dims; }

int64_t rank_of(const Value* v) { return v != nullptr && v->type.ranked ? v->type.rank() : -1; }

std::optional<Dims> broadcast(const Dims& a, const Dims& b) {
  Dims out(std::max(a.size(), b.size()));
  for (size_t i = 0; i < out.size(); ++i) {  // from the last axis
    const Dim da = i < a.size() ? a[a.size() - 1 - i] : Dim(1);
    const Dim db = i < b.size() ? b[b.size() - 1 - i] : Dim(1);
    Dim d;
    if (da == db || db.is(1)) d = da;
    else if (da.is(1)) d = db;
    else return std::nullopt;
    out[out.size() - 1 - i] = d;
  }
  return out;
}

bool is_row_vector(const Value* v, const Dim& columns) {
  if (!v->type.ranked || v->type.dims.empty()) return false;
  const Dims& d = v->type.dims;
  for (size_t i = 0; i + 1 < d.size(); ++i)
    if (!d[i].is(1)) return false;
  return d.back() == columns;
}

bool is_identity_perm(const Ints& perm) {
  for (size_t i = 0; i < perm.size(); ++i)
    if (perm[i] != static_cast<int64_t>(i)) return false;
  return true;
}

Ints inverse_perm(const Ints& perm) {
  Ints out(perm.size());
  for (size_t i = 0; i < perm.size(); ++i) out[perm[i]] = static_cast<int64_t>(i);
  return out;
}

Ints compose_perm(const Ints& first, const Ints& then) {
  Ints out(then.size());
  for (size_t i = 0; i < then.size(); ++i) out[i] = first[then[i]];
  return out;
}

Dims permuted(const Dims& dims, const Ints& perm) {
  Dims out;
  for (int64_t p : perm) out.push_back(dims[p]);
  return out;
}

Ints normalized_axes(const Ints& axes, int64_t rank) {
  Ints out;
  for (int64_t a : axes) out.push_back(a < 0 ? a + rank : a);
  return out;
}

Ints perm_of(const Node* transpose) {
  if (transpose->attrs.has("perm")) return normalized_axes(transpose->attrs.get_ints("perm"), rank_of(transpose->output(0)));
  Ints perm;
  for (int64_t i = std::max<int64_t>(rank_of(transpose->output(0)), 0); i-- > 0;) perm.push_back(i);
  return perm;
}

bool only_input_symbols(const Graph& graph, const Dims& dims) {
  const Graph* top = &graph;
  while (top->parent != nullptr) top = top->parent;
  std::vector<std::string> known, used;
  for (const Value* v : top->inputs())
    for (const Dim& d : v->type.dims)
      if (auto s = d.as_symbol()) known.push_back(*s);
  for (const Dim& d : dims) d.collect_symbols(used);
  return std::all_of(used.begin(), used.end(),
                     [&](const std::string& s) { return std::find(known.begin(), known.end(), s) != known.end(); });
}

Value* constant_f32(Graph& graph, Ints shape, const std::vector<float>& values, const std::string& name) {
  return graph.add_constant(Tensor::of<float>(Shape(shape.begin(), shape.end()), values), name);
}

Value* scalar_f32(Graph& graph, double value) { return graph.add_constant(Tensor::scalar<float>(static_cast<float>(value))); }

std::vector<float> floats_of(const Value* v) {
  const float* p = v->constant.data<float>();
  return std::vector<float>(p, p + v->constant.count());
}

void replace(Value* from, Value* to) {
  if (from == to) return;
  Graph& graph = *from->graph();
  const bool may_change = !to->is_input() && !to->is_constant();
  if (may_change && !to->type.ranked && from->type.ranked) to->type = from->type;
  if (may_change && !to->ints && from->ints) to->ints = from->ints;
  if (!from->is_graph_output()) {
    graph.replace_all_uses(from, to);
    return;
  }
  const std::string name = from->name;
  if (may_change && to->graph() == &graph && !to->is_graph_output()) {
    graph.replace_all_uses(from, to);
    from->name += "_replaced";
    to->name = name;
    return;
  }
  if (producer(from, "identity") != nullptr && from->producer()->input(0) == to) {  // already so: only the inner uses move
    const std::vector<ir::Use> uses(from->uses().begin(), from->uses().end());
    for (const ir::Use& u : uses) u.node->set_input(u.index, to);
    return;
  }
  Value* between = graph.build("identity", {to}, {}, from->producer());
  graph.replace_all_uses(from, between);
  from->name += "_replaced";
  between->name = name;
  const std::vector<ir::Use> uses(between->uses().begin(), between->uses().end());
  for (const ir::Use& u : uses) u.node->set_input(u.index, to);
}

void erase_if_dead(Node* node) {
  std::vector<Node*> pending{node};
  std::unordered_set<Node*> erased;  // a node may be pending twice
  while (!pending.empty()) {
    Node* n = pending.back();
    pending.pop_back();
    if (erased.count(n)) continue;
    const auto wanted = [](const Value* v) { return v != nullptr && (!v->uses().empty() || v->is_graph_output()); };
    if (n->op().written_input >= 0 || std::any_of(n->outputs().begin(), n->outputs().end(), wanted)) continue;
    for (Value* v : n->inputs())
      if (v != nullptr && v->producer() != nullptr && v->graph() == n->graph()) pending.push_back(v->producer());
    erased.insert(n);
    n->graph()->erase(n);
  }
}

std::string merged_origin(const std::vector<const Node*>& nodes) {
  std::string out;
  for (const Node* n : nodes) {
    const std::string& part = n->origin.empty() ? n->label() : n->origin;
    if (part.empty()) continue;
    if (out.size() + part.size() > 400) break;  // a long region: the first names are enough to find it
    if (!out.empty()) out += "+";
    out += part;
  }
  return out;
}

std::string merged_origin(std::initializer_list<const Node*> nodes) { return merged_origin(std::vector<const Node*>(nodes)); }

int rewrite_until_settled(Graph& graph, PassContext& context, const std::function<bool(Node*)>& rewrite) {
  int total = 0;
  for (int round = 0; round < 64; ++round) {
    int moved = 0;
    for (Node* n : graph.nodes_snapshot()) {
      if (!rewrite(n)) continue;
      erase_if_dead(n);
      ++moved;
    }
    remove_dead(graph, context);
    total += moved;
    if (moved == 0) break;
  }
  return total;
}

}  // namespace tokamak::passes
