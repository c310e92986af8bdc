// Common subexpressions: nodes with the same op, attributes and inputs become one; so do equal constants.

#include <algorithm>
#include <unordered_map>

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

size_t mix(size_t seed, size_t v) { return seed ^ (v + 0x9e3779b97f4a7c15ull + (seed << 6) + (seed >> 2)); }

// Enough of a constant to tell most apart; same_bytes decides.
size_t hash_constant(const Tensor& t) {
  size_t h = mix(static_cast<size_t>(t.dtype()), static_cast<size_t>(t.count()));
  for (int64_t d : t.shape()) h = mix(h, static_cast<size_t>(d));
  if (t.dtype() == DType::String) return h;
  const auto* p = static_cast<const unsigned char*>(t.raw());
  const int64_t step = std::max<int64_t>(1, t.size_bytes() / 256);
  for (int64_t i = 0; i < t.size_bytes(); i += step) h = mix(h, p[i]);
  return h;
}

int merge_constants(Graph& graph) {
  std::unordered_multimap<size_t, Value*> seen;
  int merged = 0;
  for (Value* v : graph.constants()) {
    if (v->uses().empty() || v->is_graph_output()) continue;
    const size_t h = hash_constant(v->constant);
    const auto [begin, end] = seen.equal_range(h);
    Value* same = nullptr;
    for (auto it = begin; it != end && same == nullptr; ++it)
      if (it->second->constant.layout() == v->constant.layout() && same_bytes(it->second->constant, v->constant)) same = it->second;
    if (same == nullptr) {
      seen.emplace(h, v);
      continue;
    }
    graph.replace_all_uses(v, same);
    ++merged;
  }
  return merged;
}

}  // namespace

int eliminate_common(Graph& graph, PassContext&) {
  int merged = merge_constants(graph);
  std::unordered_multimap<size_t, Node*> seen;
  for (Node* n : graph.nodes_snapshot()) {
    if (!n->op().is_pure() || !n->subgraphs.empty()) continue;
    size_t h = std::hash<std::string_view>{}(n->op().name);
    for (const Value* v : n->inputs()) h = mix(h, std::hash<const void*>{}(v));
    for (const auto& [name, value] : n->attrs) h = mix(h, std::hash<std::string>{}(name));
    const auto [begin, end] = seen.equal_range(h);
    Node* same = nullptr;
    for (auto it = begin; it != end && same == nullptr; ++it) {
      Node* m = it->second;
      if (&m->op() == &n->op() && std::equal(m->inputs().begin(), m->inputs().end(), n->inputs().begin(), n->inputs().end()) &&
          m->num_outputs() == n->num_outputs() && ir::same_attrs(m->attrs, n->attrs))
        same = m;
    }
    if (same == nullptr) {
      seen.emplace(h, n);
      continue;
    }
    bool output = false;  // keeping a second output name needs an identity: not worth it
    for (const Value* v : n->outputs()) output = output || (v != nullptr && v->is_graph_output());
    if (output) continue;
    bool comparable = true;
    for (int i = 0; i < n->num_outputs(); ++i) comparable = comparable && (n->output(i) == nullptr) == (same->output(i) == nullptr);
    if (!comparable) continue;
    for (int i = 0; i < n->num_outputs(); ++i)
      if (n->output(i) != nullptr) replace(n->output(i), same->output(i));
    graph.erase(n);
    ++merged;
  }
  return merged;
}

}  // namespace tokamak::passes
