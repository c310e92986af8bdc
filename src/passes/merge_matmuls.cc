// Products of one input with several constant matrices (q, k, v; gate and up; parallel 1x1 convolutions) become one product with the
// matrices side by side, and a split. The split copies, so this pays only where the single products are too narrow to run well.

#include <algorithm>
#include <unordered_map>

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

// Below this many columns a product leaves most of a core's registers and all other cores without work; above, the copy costs more.
constexpr int64_t kNarrow = 32;

struct Member {
  Node* product;
  Node* bias;  // the addition behind it, or null
  int64_t columns;
};

bool plain_matmul(const Node* n) {
  if (!n->is("matmul") || n->num_inputs() != 2 || n->attrs.has("epilogue") || n->attrs.get_int("trans_a", 0) != 0 ||
      n->attrs.get_int("trans_b", 0) != 0)
    return false;
  if (n->attrs.get_float("alpha", 1) != 1 || rank_of(n->input(0)) < 2 || !is_f32(n->output(0))) return false;
  const Value* w = n->input(1);
  return w->is_constant() && w->constant.rank() == 2 && w->constant.dtype() == DType::F32 && w->constant.layout().empty();
}

Node* bias_of(Node* product, int64_t columns) {
  Node* add = sole_user(product->output(0));
  if (add == nullptr || !add->is("add")) return nullptr;
  const Value* b = other_operand(add, product->output(0));
  return b != nullptr && b->is_constant() && is_f32(b) && is_row_vector(b, Dim(columns)) ? add : nullptr;
}

bool merge(Graph& graph, const std::vector<Member>& group) {
  Node* first = group.front().product;
  const int64_t k = first->input(1)->constant.dim(0);
  int64_t total = 0;
  bool biased = false;
  for (const Member& m : group) {
    total += m.columns;
    biased = biased || m.bias != nullptr;
  }
  Tensor w = Tensor::empty(DType::F32, {k, total});
  std::vector<float> bias(total, 0);
  Dims sizes;
  std::vector<const Node*> nodes;
  int64_t at = 0;
  for (const Member& m : group) {
    const float* from = m.product->input(1)->constant.data<float>();
    for (int64_t r = 0; r < k; ++r) std::copy_n(from + r * m.columns, m.columns, w.data<float>() + r * total + at);
    if (m.bias != nullptr) {
      const std::vector<float> b = floats_of(other_operand(m.bias, m.product->output(0)));
      std::copy(b.begin(), b.end(), bias.begin() + at);
    }
    sizes.push_back(Dim(m.columns));
    at += m.columns;
    nodes.push_back(m.product);
  }
  Value* y = graph.build("matmul", {first->input(0), graph.add_constant(std::move(w))}, {}, first, first->name);
  y->producer()->origin = merged_origin(nodes);
  if (biased) y = graph.build("add", {y, constant_f32(graph, {total}, bias)}, {}, first);
  Node* split = graph.add_node("split", {y}, {{"axis", rank_of(y) - 1}, {"sizes", sizes}}, "", first, static_cast<int>(group.size()));
  for (size_t i = 0; i < group.size(); ++i)
    replace(group[i].bias != nullptr ? group[i].bias->output(0) : group[i].product->output(0), split->output(static_cast<int>(i)));
  return true;
}

}  // namespace

int merge_matmuls(Graph& graph, PassContext& context) {
  std::vector<std::vector<Member>> groups;
  std::unordered_map<const Value*, size_t> by_input;
  for (Node* n : graph.nodes_snapshot()) {
    if (!plain_matmul(n)) continue;
    const int64_t columns = n->input(1)->constant.dim(1);
    if (columns > kNarrow) continue;
    const auto [it, added] = by_input.try_emplace(n->input(0), groups.size());
    if (added) groups.emplace_back();
    groups[it->second].push_back({n, bias_of(n, columns), columns});
  }
  int merged = 0;
  for (const auto& group : groups)
    if (group.size() > 1) merged += merge(graph, group);
  remove_dead(graph, context);
  return merged;
}

}  // namespace tokamak::passes
