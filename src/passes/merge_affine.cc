// Chains of additions and multiplications with constants become one of each: (x + a) + b, (x * a) * b, (x + a) * b = x * b + a * b. Runs
// after the recognisers, which look for the chains as exporters wrote them.

#include <algorithm>

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

// a op b with broadcasting, of two f32 constants.
Tensor combine(const Tensor& a, const Tensor& b, bool multiply) {
  const int64_t rank = std::max(a.rank(), b.rank());
  Shape shape(rank);
  const auto dim = [&](const Tensor& t, int64_t i) {
    const int64_t j = i - (rank - t.rank());
    return j < 0 ? int64_t{1} : t.dim(j);
  };
  for (int64_t i = 0; i < rank; ++i) shape[i] = std::max(dim(a, i), dim(b, i));
  Tensor out = Tensor::empty(DType::F32, shape);
  for (int64_t k = 0; k < out.count(); ++k) {
    int64_t rest = k, ia = 0, ib = 0, sa = 1, sb = 1;
    for (int64_t i = rank - 1; i >= 0; --i) {
      const int64_t at = rest % shape[i];
      rest /= shape[i];
      if (dim(a, i) != 1) ia += at * sa;
      if (dim(b, i) != 1) ib += at * sb;
      sa *= dim(a, i);
      sb *= dim(b, i);
    }
    const float x = a.data<float>()[ia], y = b.data<float>()[ib];
    out.data<float>()[k] = multiply ? x * y : x + y;
  }
  return out;
}

// The operand beside an f32 constant (stored), if the result has its shape.
Value* beside_constant(const Node* n, Value** c) {
  for (int i = 0; i < 2; ++i) {
    Value *x = n->input(i), *k = n->input(1 - i);
    if (x->is_constant() || !k->is_constant() || k->constant.dtype() != DType::F32 || k->constant.count() > (1 << 20) ||
        !same_dims(x, n->output(0)))
      continue;
    *c = k;
    return x;
  }
  return nullptr;
}

bool merge(Node* n) {
  Value *outer = nullptr, *inner = nullptr;
  Value* y = beside_constant(n, &outer);
  if (y == nullptr) return false;
  Node* m = sole_producer(y, "mul");
  if (m == nullptr) m = sole_producer(y, "add");
  Value* x = m != nullptr ? beside_constant(m, &inner) : nullptr;
  if (x == nullptr) return false;
  Graph& graph = *n->graph();
  Value* v = nullptr;
  if (m->is("mul") == n->is("mul")) {
    v = graph.build(n->op().name, {x, graph.add_constant(combine(inner->constant, outer->constant, n->is("mul")))}, {}, n, n->name);
  } else if (n->is("mul")) {  // (x + a) * b
    // Only where the multiplication can go on: into a constant factor or a product.
    Node* before = sole_producer(x, "mul");
    Value* ignored = nullptr;
    const bool useful = (before != nullptr && beside_constant(before, &ignored) != nullptr) || sole_producer(x, "matmul") != nullptr;
    if (!useful) return false;
    Value* scaled = graph.build("mul", {x, outer}, {}, n, m->name);
    v = graph.build("add", {scaled, graph.add_constant(combine(inner->constant, outer->constant, true))}, {}, n, n->name);
    scaled->producer()->origin = m->origin;
  } else {
    return false;
  }
  v->producer()->origin = merged_origin({m, n});
  replace(n->output(0), v);
  return true;
}

}  // namespace

int merge_affine(Graph& graph, PassContext&) {
  int merged = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (!(n->is("mul") || n->is("add")) || !is_f32(n->output(0)) || !merge(n)) continue;
    erase_if_dead(n);
    ++merged;
  }
  return merged;
}

}  // namespace tokamak::passes
