// Groups what is left of float pointwise work into `fused` nodes, together with reductions over the last axis that read and feed it. A
// region grows from its last node backwards; a value that others want too becomes a further output, if nothing outside depends on it and
// feeds back.

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "passes/expr_builder.h"
#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

constexpr size_t kMaxInputs = 12;
constexpr size_t kMaxNodes = 64;

using Nodes = std::unordered_set<Node*>;

// Instruction name of a mean, sum, max or min over the last axis that keeps it; empty otherwise.
std::string_view row_reduction(const Node* n) {
  static const std::pair<std::string_view, std::string_view> kNames[] = {
      {"reduce_sum", "row_sum"}, {"reduce_mean", "row_mean"}, {"reduce_max", "row_max"}, {"reduce_min", "row_min"}};
  for (const auto& [op, name] : kNames) {
    if (!n->is(op)) continue;
    const int64_t rank = rank_of(n->input(0));
    if (rank < 1 || !n->attrs.has("axes") || n->attrs.get_int("keepdims", 1) != 1 || !is_float(n->input(0))) return {};
    const Ints axes = normalized_axes(n->attrs.get_ints("axes"), rank);
    return axes == Ints{rank - 1} ? name : std::string_view{};
  }
  return {};
}

class Regions {
 public:
  explicit Regions(Graph& graph) : graph_(graph) {
    for (const auto& n : graph.nodes()) order_[n.get()] = static_cast<int>(order_.size());
  }

  // The region that ends in `root`, in topological order.
  std::vector<Node*> grow(Node* root, const Nodes& taken) {
    Nodes region{root};
    full_ = root->output(0)->type.dims;
    bool changed = true;
    while (changed && region.size() < kMaxNodes) {
      changed = false;
      for (Node* n : std::vector<Node*>(region.begin(), region.end())) {
        for (Value* v : n->inputs()) {
          Node* p = v != nullptr ? v->producer() : nullptr;
          if (p == nullptr || p->graph() != &graph_ || region.count(p) || taken.count(p)) continue;
          if (!joins(p, region)) continue;
          region.insert(p);
          if (count_inputs(region) > kMaxInputs || !acyclic(region)) {
            region.erase(p);
            continue;
          }
          changed = true;
        }
      }
    }
    std::vector<Node*> sorted(region.begin(), region.end());
    std::sort(sorted.begin(), sorted.end(), [&](Node* a, Node* b) { return order_.at(a) < order_.at(b); });
    return sorted;
  }

 private:
  bool row_shape(const Value* v) const {
    Dims row = full_;
    if (row.empty()) return false;
    row.back() = Dim(1);
    return v->type.dims == row;
  }

  bool joins(Node* p, const Nodes& region) {
    const Value* out = p->output(0);
    const bool wide = out->type.ranked && out->type.dims == full_;
    if (expressible(p)) {
      if (wide) return out->type.dtype != DType::Bool || !read_outside(out, region);
      // One value a row, all of whose readers are inside: worth computing there only when a reduction in the region makes it.
      return out->type.ranked && row_shape(out) && !read_outside(out, region) && from_reduction(p);
    }
    return !row_reduction(p).empty() && p->input(0)->type.dims == full_ && !read_outside(out, region) && !full_.back().is(1);
  }

  bool from_reduction(const Node* p) const {
    for (int hop = 0; hop < 8; ++hop) {
      const Node* next = nullptr;
      for (const Value* v : p->inputs()) {
        const Node* q = v != nullptr ? v->producer() : nullptr;
        if (q == nullptr || q->graph() != &graph_) continue;
        if (!row_reduction(q).empty() && q->input(0)->type.dims == full_) return true;
        if (expressible(q) && row_shape(q->output(0))) next = q;
      }
      if (next == nullptr) return false;
      p = next;
    }
    return false;
  }

  static bool read_outside(const Value* v, const Nodes& region) {
    if (v->is_graph_output()) return true;
    return std::any_of(v->uses().begin(), v->uses().end(), [&](const ir::Use& u) { return !region.count(u.node); });
  }

  size_t count_inputs(const Nodes& region) const {
    std::unordered_set<const Value*> inputs;
    for (Node* n : region)
      for (const Value* v : n->inputs())
        if (v != nullptr && !(v->is_constant() && v->constant.count() == 1) && !(v->producer() != nullptr && region.count(v->producer())))
          inputs.insert(v);
    return inputs.size();
  }

  // No path leaves the region and comes back.
  bool acyclic(const Nodes& region) const {
    int last = 0;
    for (Node* n : region) last = std::max(last, order_.at(n));
    std::unordered_set<const Node*> seen;
    std::vector<const Node*> stack;
    const auto visit = [&](const Value* v) {
      for (const ir::Use& u : v->uses()) {
        const Node* user = u.node;
        while (user->graph() != &graph_) {  // inside a subgraph: the node that owns it
          const Node* owner = owner_of(user->graph());
          if (owner == nullptr) break;
          user = owner;
        }
        if (region.count(const_cast<Node*>(user)) || !order_.count(const_cast<Node*>(user)) || order_.at(const_cast<Node*>(user)) > last)
          continue;
        if (seen.insert(user).second) stack.push_back(user);
      }
    };
    for (Node* n : region) visit(n->output(0));
    while (!stack.empty()) {
      const Node* n = stack.back();
      stack.pop_back();
      for (const Value* v : n->outputs()) {
        if (v == nullptr) continue;
        for (const ir::Use& u : v->uses())
          if (region.count(u.node)) return false;
        visit(v);
      }
    }
    return true;
  }

  const Node* owner_of(const Graph* sub) const {
    for (; sub != nullptr && sub->parent != &graph_; sub = sub->parent) {
    }
    if (sub == nullptr) return nullptr;
    for (const auto& n : graph_.nodes())
      for (const auto& s : n->subgraphs)
        if (s.get() == sub) return n.get();
    return nullptr;
  }

  Graph& graph_;
  std::unordered_map<Node*, int> order_;
  Dims full_;
};

// Replaces the region by one node, placed before its last; the graph is sorted afterwards.
void build(Graph& graph, const std::vector<Node*>& region) {
  ExprBuilder expr;
  std::vector<Value*> inputs;
  std::vector<const Node*> nodes;
  Nodes inside(region.begin(), region.end());
  for (Node* n : region) {
    for (Value* v : n->inputs()) {
      if (v == nullptr || expr.bound(v) || expr.is_literal(v)) continue;
      expr.bind_input(v, static_cast<int>(inputs.size()));
      inputs.push_back(v);
    }
    if (const std::string_view reduction = row_reduction(n); !reduction.empty())
      expr.append_reduction(reduction, n->input(0), n->output(0));
    else expr.append(n);
    nodes.push_back(n);
  }
  std::vector<Value*> results;
  ir::Strings dtypes;
  for (Node* n : region) {
    Value* v = n->output(0);
    const bool wanted =
        v->is_graph_output() || std::any_of(v->uses().begin(), v->uses().end(), [&](const ir::Use& u) { return !inside.count(u.node); });
    if (!wanted) continue;
    results.push_back(v);
    dtypes.push_back(to_string(v->type.dtype));
    expr.add_result(v);
  }
  Attrs attrs{{"expr", expr.text()}};
  if (std::any_of(dtypes.begin(), dtypes.end(), [](const std::string& t) { return t != "f32"; })) attrs.set("dtypes", dtypes);
  Node* fused = graph.add_node("fused", inputs, attrs, region.back()->name, region.back(), static_cast<int>(results.size()));
  fused->origin = merged_origin(nodes);
  for (size_t i = 0; i < results.size(); ++i) replace(results[i], fused->output(static_cast<int>(i)));
}

}  // namespace

int fuse_regions(Graph& graph, PassContext& context) {
  Nodes taken;
  std::vector<std::vector<Node*>> found;
  {
    Regions regions(graph);
    std::vector<Node*> nodes = graph.nodes_snapshot();
    for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
      Node* n = *it;
      if (taken.count(n) || !expressible(n) || !is_float(n->output(0)) || rank_of(n->output(0)) < 1) continue;
      bool has_input = false;
      for (const Value* v : n->inputs()) has_input = has_input || (v != nullptr && !v->is_constant());
      if (!has_input) continue;
      found.push_back(regions.grow(n, taken));
      taken.insert(found.back().begin(), found.back().end());
    }
  }
  int fused = 0;
  // Regions are disjoint and each is convex; merged two by two they might still form a cycle, so each is rebuilt and sorted in turn.
  for (auto it = found.rbegin(); it != found.rend(); ++it) {
    build(graph, *it);
    ++fused;
  }
  remove_dead(graph, context);
  graph.sort();
  return fused;
}

}  // namespace tokamak::passes
