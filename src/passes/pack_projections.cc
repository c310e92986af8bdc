// The projections that make q, k and v of one input become one product whose output attention reads in place (q_first, k_first, v_first):
// one launch instead of three, and enough columns to fill a GPU at few rows. Of cross attention k and v.

#include <algorithm>

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

struct Projection {
  Node* product = nullptr;
  Node* bias = nullptr;  // the addition behind it, or null
  int64_t heads = 0, columns = 0;

  bool by_columns() const { return product->attrs.get_int("trans_b", 0) == 0; }  // the matrix is [K, N], else [N, K]
  const Tensor& matrix() const { return product->input(1)->constant; }
  int64_t depth() const { return matrix().dim(by_columns() ? 0 : 1); }
};

// [B,S,H,D] as a reshaped product [B,S,H*D] with a constant matrix that nothing else reads.
Projection projection_of(const Node* attention, int input) {
  static constexpr const char* kFirst[] = {"q_first", "k_first", "v_first"};
  if (attention->attrs.get_string(input == 0 ? "q_layout" : "kv_layout", "BHSD") != "BSHD" || attention->attrs.has(kFirst[input]))
    return {};
  Node* r = sole_producer(attention->input(input), "reshape");
  if (r == nullptr || r->num_inputs() != 1 || rank_of(r->input(0)) != 3) return {};
  const Dims &from = r->input(0)->type.dims, &to = r->output(0)->type.dims;
  if (!(from[0] == to[0]) || !(from[1] == to[1]) || !to[2].is_const() || !to[3].is_const()) return {};
  Projection p;
  p.heads = to[2].value(), p.columns = to[2].value() * to[3].value();
  p.bias = sole_producer(r->input(0), "add");
  if (p.bias != nullptr)
    for (int i = 0; i < 2 && p.product == nullptr; ++i) {
      const Value* b = p.bias->input(1 - i);
      if (b->is_constant() && is_f32(b) && is_row_vector(b, Dim(p.columns))) p.product = sole_producer(p.bias->input(i), "matmul");
    }
  else p.product = sole_producer(r->input(0), "matmul");
  const Node* n = p.product;
  if (n == nullptr || n->num_inputs() != 2 || n->attrs.has("epilogue") || n->attrs.get_int("trans_a", 0) != 0 ||
      n->attrs.get_float("alpha", 1) != 1 || rank_of(n->input(0)) != 3)
    return {};
  const Value* w = n->input(1);
  if (!w->is_constant() || w->constant.rank() != 2 || w->constant.dtype() != DType::F32 || !w->constant.layout().empty()) return {};
  return p.matrix().dim(p.by_columns() ? 1 : 0) == p.columns ? p : Projection{};
}

Tensor side_by_side(const std::vector<Projection>& parts, int64_t columns) {
  const int64_t depth = parts[0].depth();
  const bool by_columns = parts[0].by_columns();
  Tensor w = Tensor::empty(DType::F32, by_columns ? Shape{depth, columns} : Shape{columns, depth});
  int64_t at = 0;
  for (const Projection& p : parts) {
    const float* from = p.matrix().data<float>();
    if (by_columns)
      for (int64_t r = 0; r < depth; ++r) std::copy_n(from + r * p.columns, p.columns, w.data<float>() + r * columns + at);
    else std::copy_n(from, p.columns * depth, w.data<float>() + at * depth);
    at += p.columns;
  }
  return w;
}

bool pack(Node* attention) {
  std::vector<Projection> parts;
  for (int i = 0; i < 3; ++i) parts.push_back(projection_of(attention, i));
  const auto fits = [&](const Projection& a, const Projection& b) {
    return a.product != nullptr && b.product != nullptr && a.product != b.product && a.product->input(0) == b.product->input(0) &&
           a.by_columns() == b.by_columns() && a.columns / a.heads == b.columns / b.heads;
  };
  if (!fits(parts[1], parts[2])) return false;
  const int first_input = fits(parts[0], parts[1]) ? 0 : 1;
  if (first_input == 1) parts.erase(parts.begin());

  Graph& graph = *attention->graph();
  int64_t columns = 0, heads = 0;
  std::vector<float> bias;
  std::vector<const Node*> nodes;
  bool biased = false;
  for (const Projection& p : parts) {
    columns += p.columns, heads += p.heads;
    nodes.push_back(p.product);
    std::vector<float> own(p.columns, 0);
    if (p.bias != nullptr) own = floats_of(other_operand(p.bias, p.product->output(0))), biased = true;
    bias.insert(bias.end(), own.begin(), own.end());
  }
  const Node* product = parts[0].product;
  Value* y = graph.build("matmul", {product->input(0), graph.add_constant(side_by_side(parts, columns))}, product->attrs, attention,
                         product->name);
  y->producer()->origin = merged_origin(nodes);
  if (biased) y = graph.build("add", {y, constant_f32(graph, {columns}, bias)}, {}, attention);
  Dims dims = y->type.dims;
  dims.back() = heads;
  dims.push_back(columns / heads);
  if (!only_input_symbols(graph, dims)) return false;
  y = graph.build("reshape", {y}, {{"shape", dims}}, attention);
  int64_t first = 0;
  static constexpr const char* kFirst[] = {"q_first", "k_first", "v_first"};
  for (size_t i = 0; i < parts.size(); ++i) {
    const int input = first_input + static_cast<int>(i);
    attention->attrs.set(kFirst[input], first);
    attention->attrs.set(input == 0 ? "q_heads" : "kv_heads", parts[i].heads);
    attention->set_input(input, y);
    first += parts[i].heads;
  }
  return true;
}

}  // namespace

int pack_projections(Graph& graph, PassContext& context) {
  if (!context.is_gpu) return 0;
  int packed = 0;
  for (Node* n : graph.nodes_snapshot())
    if (n->is("attention")) packed += pack(n);
  remove_dead(graph, context);
  return packed;
}

}  // namespace tokamak::passes
