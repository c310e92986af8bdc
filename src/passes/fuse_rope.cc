// Rotary position embedding (RoFormer, arXiv:2104.09864), in the rotate-half form that exporters write:
//   x * cos + concat(-x[d/2:], x[:d/2]) * sin        cos, sin [.., S, D], both halves equal
// becomes rope(x, cos[:d/2], sin[:d/2]). The half tables are built by halving what made the full ones, down to concat(f, f).

#include <algorithm>
#include <cstring>

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

// Whether `n` is x[begin:end] on the last axis of `x`.
bool is_half(Node* n, const Value* x, bool second, int64_t d) {
  if (n == nullptr || n->input(0) != x || n->num_inputs() != 1) return false;
  const Ints axes = normalized_axes(n->attrs.get_ints("axes"), rank_of(x));
  const Dims starts = n->attrs.get_dims("starts"), ends = n->attrs.get_dims("ends");
  if (axes != Ints{rank_of(x) - 1} || !starts[0].is_const() || !ends[0].is_const()) return false;
  const auto at = [&](int64_t i) { return i < 0 ? i + d : std::min(i, d); };
  return at(starts[0].value()) == (second ? d / 2 : 0) && at(ends[0].value()) == (second ? d : d / 2);
}

// x when `v` is concat(-x[d/2:], x[:d/2]).
Value* rotated(Value* v, int64_t d) {
  Node* c = producer(v, "concat");
  if (c == nullptr || c->num_inputs() != 2 || normalized_axes({c->attrs.get_int("axis")}, rank_of(v))[0] != rank_of(v) - 1) return nullptr;
  Node* minus = producer(c->input(0), "neg");
  Node* high = minus != nullptr ? producer(minus->input(0), "slice") : nullptr;
  if (high == nullptr) {  // neg may sit outside as a multiplication by -1
    Node* m = producer(c->input(0), "mul");
    high = m != nullptr ? producer(beside(m, -1), "slice") : nullptr;
  }
  if (Node* s = minus != nullptr ? producer(minus->input(0), "split") : nullptr) {
    const bool ok = s->num_outputs() == 2 && minus->input(0) == s->output(1) && c->input(1) == s->output(0) && s->output(0)->type.ranked &&
                    s->output(0)->type.dims.back().is(d / 2) && rank_of(s->input(0)) == rank_of(v);
    return ok ? s->input(0) : nullptr;
  }
  Node* low = producer(c->input(1), "slice");
  if (high == nullptr || low == nullptr) return nullptr;
  Value* x = high->input(0);
  return rank_of(x) > 0 && is_half(high, x, true, d) && is_half(low, x, false, d) ? x : nullptr;
}

// The first half of a table on its last axis, if both halves are provably equal; built before `before`.
Value* half_table(Value* v, int64_t d, Node* before, int depth = 0) {
  if (depth > 12 || rank_of(v) < 1 || !v->type.dims.back().is(d)) return nullptr;
  Graph& graph = *before->graph();
  const int64_t last = rank_of(v) - 1;
  if (v->is_constant()) {
    const Tensor& t = v->constant;
    if (t.dtype() != DType::F32) return nullptr;
    const int64_t rows = t.count() / d, h = d / 2;
    Shape shape = t.shape();
    shape.back() = h;
    Tensor out = Tensor::empty(DType::F32, shape);
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = t.data<float>() + r * d;
      if (std::memcmp(row, row + h, h * sizeof(float)) != 0) return nullptr;
      std::memcpy(out.data<float>() + r * h, row, h * sizeof(float));
    }
    return graph.add_constant(std::move(out));
  }
  Node* n = v->producer();
  if (n == nullptr || n->graph() != &graph) return nullptr;
  if (n->is("concat")) {
    if (n->num_inputs() == 2 && n->input(0) == n->input(1) && normalized_axes({n->attrs.get_int("axis")}, last + 1)[0] == last)
      return n->input(0);
    return nullptr;
  }
  const auto halve = [&](int i) { return half_table(n->input(i), d, before, depth + 1); };
  if (n->op().has(ir::kUnary) || n->is("cast")) {
    Value* x = halve(0);
    return x != nullptr ? graph.build(n->op().name, {x}, n->attrs, before) : nullptr;
  }
  if (n->is("mul") || n->is("add")) {
    for (int i = 0; i < 2; ++i) {
      if (!scalar_of(n->input(1 - i))) continue;
      Value* x = halve(i);
      return x != nullptr ? graph.build(n->op().name, {x, n->input(1 - i)}, {}, before) : nullptr;
    }
    return nullptr;
  }
  if (n->is("reshape")) {
    Value* x = halve(0);
    if (x == nullptr) return nullptr;
    if (n->num_inputs() > 1) {  // a shape that only the runtime knows: the proof holds, the half is cut from the result
      const Attrs cut{{"starts", Dims{0}}, {"ends", Dims{Dim(d / 2)}}, {"axes", Ints{last}}, {"steps", Ints{1}}};
      return graph.build("slice", {v}, cut, before);
    }
    Dims shape = v->type.dims;
    shape.back() = Dim(d / 2);
    return graph.build("reshape", {x}, {{"shape", shape}}, before);
  }
  if (n->is("transpose")) {
    const Ints perm = perm_of(n);
    if (perm.back() != last) return nullptr;
    Value* x = halve(0);
    return x != nullptr ? graph.build("transpose", {x}, n->attrs, before) : nullptr;
  }
  if (n->is("gather")) {  // cached tables looked up by position
    if (n->attrs.get_int("axis", 0) != 0 || rank_of(n->input(0)) < 2) return nullptr;
    Value* x = halve(0);
    return x != nullptr ? graph.build("gather", {x, n->input(1)}, n->attrs, before) : nullptr;
  }
  if (n->is("slice") && n->num_inputs() == 1) {
    for (int64_t a : normalized_axes(n->attrs.get_ints("axes"), last + 1))
      if (a == last) return nullptr;
    Value* x = halve(0);
    return x != nullptr ? graph.build("slice", {x}, n->attrs, before) : nullptr;
  }
  return nullptr;
}

// The rotation has x's shape. A table whose length is not provably the sequence's (cut from position ids of another symbol) would broadcast
// only if it were 1, which rope does too; anything else it refuses.
bool keeps_shape(const Value* x, const Value* out) {
  if (rank_of(x) != rank_of(out)) return false;
  for (int64_t i = 0; i < rank_of(x); ++i) {
    const Dim &a = x->type.dims[i], &b = out->type.dims[i];
    if (!(a == b) && (a.is_const() || b.is_const())) return false;
  }
  return true;
}

bool rope(Node* sum) {
  for (int i = 0; i < 2; ++i) {
    Node* straight = producer(sum->input(i), "mul");
    Node* turned = producer(sum->input(1 - i), "mul");
    if (straight == nullptr || turned == nullptr || rank_of(sum->output(0)) != 4) continue;
    const Dim& last = sum->output(0)->type.dims.back();
    if (!last.is_const() || last.value() % 2 != 0) continue;
    const int64_t d = last.value();
    for (int j = 0; j < 2; ++j) {
      Value* x = rotated(turned->input(j), d);
      Value* sin = turned->input(1 - j);
      if (x == nullptr || !is_float(x) || !keeps_shape(x, sum->output(0))) continue;
      Value* cos = other_operand(straight, x);
      if (cos == nullptr || rank_of(cos) < 2 || rank_of(cos) != rank_of(sin)) continue;
      // BHSD: the tables vary over batch and position, not over heads.
      if (rank_of(cos) > 4 || (rank_of(cos) >= 3 && !cos->type.dims[rank_of(cos) - 3].is(1))) continue;
      Value* half_cos = half_table(cos, d, sum);
      Value* half_sin = half_cos != nullptr ? half_table(sin, d, sum) : nullptr;
      if (half_sin == nullptr) continue;
      Value* v = sum->graph()->build("rope", {x, half_cos, half_sin}, {{"interleaved", int64_t{0}}, {"layout", std::string("BHSD")}}, sum,
                                     sum->name);
      v->producer()->origin = merged_origin({straight, turned, sum});
      replace(sum->output(0), v);
      return true;
    }
  }
  return false;
}

}  // namespace

int fuse_rope(Graph& graph, PassContext&) {
  int fused = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (!n->is("add") || !rope(n)) continue;
    erase_if_dead(n);
    ++fused;
  }
  return fused;
}

}  // namespace tokamak::passes
