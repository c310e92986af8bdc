// Activations from primitive chains: gelu (erf and tanh forms), silu, hard_swish, mish. The constants and multiplications come in every
// order; each pattern starts at the function in its middle and collects the factors around it.

#include <cmath>

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

constexpr double kSqrtHalf = 0.7071067811865476;
constexpr double kSqrtTwoOverPi = 0.7978845608028654;

// Given `a` = 1 + f(x): the value that equals 0.5 * x * a, however the product is bracketed; null when it is not there.
Value* half_x_times(Value* a, Value* x) {
  Value* v = a;
  bool have_x = false, have_half = false;
  for (int step = 0; step < 2 && !(have_x && have_half); ++step) {
    Node* m = sole_user(v);
    if (m == nullptr || !m->is("mul")) return nullptr;
    Value* other = other_operand(m, v);
    if (other == nullptr) return nullptr;
    Node* scaled = producer(other, "mul");
    if (other == x && !have_x) {
      have_x = true;
    } else if (is_scalar(other, 0.5) && !have_half) {
      have_half = true;
    } else if (scaled != nullptr && beside(scaled, 0.5) == x && !have_x && !have_half) {
      have_x = have_half = true;
    } else {
      return nullptr;
    }
    v = m->output(0);
  }
  return have_x && have_half ? v : nullptr;
}

bool become(Node* at, Value* result, std::string_view op, Value* x) {
  Node* root = result->producer();
  Value* v = root->graph()->build(op, {x}, {}, root, root->name);
  v->producer()->origin = merged_origin({at, root});
  replace(result, v);
  erase_if_dead(root);
  return true;
}

bool gelu_erf(Node* erf) {
  Value* x = nullptr;
  if (Node* m = producer(erf->input(0), "mul")) x = beside(m, kSqrtHalf);
  if (Node* d = producer(erf->input(0), "div"); d != nullptr && is_scalar(d->input(1), 1 / kSqrtHalf)) x = d->input(0);
  Node* plus = x != nullptr ? sole_user(erf->output(0)) : nullptr;
  if (plus == nullptr || !plus->is("add") || beside(plus, 1) != erf->output(0)) return false;
  Value* result = half_x_times(plus->output(0), x);
  return result != nullptr && become(erf, result, "gelu", x);
}

// x when `v` is x * x * x (as canonicalize leaves it).
Value* cube_of(Value* v) {
  Node* outer = producer(v, "mul");
  if (outer == nullptr) return nullptr;
  for (int i = 0; i < 2; ++i) {
    Node* square = producer(outer->input(i), "mul");
    Value* x = outer->input(1 - i);
    if (square != nullptr && square->input(0) == x && square->input(1) == x) return x;
  }
  return nullptr;
}

// x when `v` is x + 0.044715 x^3 or x * (1 + 0.044715 x^2).
Value* cubic_of(Value* v) {
  if (Node* sum = producer(v, "add")) {
    for (int i = 0; i < 2; ++i) {
      Value* x = sum->input(1 - i);
      Node* term = producer(sum->input(i), "mul");
      if (term == nullptr) continue;
      if (Value* cube = beside(term, 0.044715); cube != nullptr && cube_of(cube) == x) return x;
      for (int j = 0; j < 2; ++j) {  // (0.044715 x) * (x * x), ((0.044715 x) * x) * x
        Node* a = producer(term->input(j), "mul");
        Node* b = producer(term->input(1 - j), "mul");
        if (a != nullptr && b != nullptr && beside(a, 0.044715) == x && b->input(0) == x && b->input(1) == x) return x;
        if (a != nullptr && term->input(1 - j) == x) {
          Node* inner = producer(other_operand(a, x), "mul");
          if (inner != nullptr && beside(inner, 0.044715) == x) return x;
        }
      }
    }
  }
  if (Node* product = producer(v, "mul")) {
    for (int i = 0; i < 2; ++i) {
      Value* x = product->input(1 - i);
      Node* sum = producer(product->input(i), "add");
      Node* term = sum != nullptr ? producer(beside(sum, 1), "mul") : nullptr;
      Node* square = term != nullptr ? producer(beside(term, 0.044715), "mul") : nullptr;
      if (square != nullptr && square->input(0) == x && square->input(1) == x) return x;
    }
  }
  return nullptr;
}

bool gelu_tanh(Node* tanh) {
  Node* m = producer(tanh->input(0), "mul");
  Value* x = nullptr;
  if (m != nullptr) {
    x = cubic_of(beside(m, kSqrtTwoOverPi));
    for (int i = 0; i < 2 && x == nullptr; ++i) {  // (x * c) * (1 + 0.044715 x^2)
      Node* scaled = producer(m->input(i), "mul");
      Value* candidate = scaled != nullptr ? beside(scaled, kSqrtTwoOverPi) : nullptr;
      Node* sum = producer(m->input(1 - i), "add");
      Node* term = sum != nullptr ? producer(beside(sum, 1), "mul") : nullptr;
      Node* square = term != nullptr ? producer(beside(term, 0.044715), "mul") : nullptr;
      if (candidate != nullptr && square != nullptr && square->input(0) == candidate && square->input(1) == candidate) x = candidate;
    }
  }
  Node* plus = x != nullptr ? sole_user(tanh->output(0)) : nullptr;
  if (plus == nullptr || !plus->is("add") || beside(plus, 1) != tanh->output(0)) return false;
  Value* result = half_x_times(plus->output(0), x);
  return result != nullptr && become(tanh, result, "gelu_tanh", x);
}

// x * g(x) with g named by `gate`.
bool gated(Node* m, std::string_view gate, std::string_view op) {
  for (int i = 0; i < 2; ++i) {
    Node* g = sole_producer(m->input(i), gate);
    if (g == nullptr || g->input(0) != m->input(1 - i)) continue;
    if (gate == "hard_sigmoid" &&
        (std::abs(g->attrs.get_float("alpha", 0.2) - 1.0 / 6) > 1e-5 || std::abs(g->attrs.get_float("beta", 0.5) - 0.5) > 1e-6))
      continue;
    return become(g, m->output(0), op, g->input(0));
  }
  return false;
}

bool mish(Node* m) {
  for (int i = 0; i < 2; ++i) {
    Node* t = sole_producer(m->input(i), "tanh");
    Node* s = t != nullptr ? sole_producer(t->input(0), "softplus") : nullptr;
    if (s != nullptr && s->input(0) == m->input(1 - i)) return become(t, m->output(0), "mish", s->input(0));
  }
  return false;
}

// x * clip(x + 3, 0, 6) / 6, in the orders exporters write.
bool hard_swish(Node* c) {
  if (std::abs(c->attrs.get_float("min", -1)) > 0 || std::abs(c->attrs.get_float("max", 0) - 6) > 1e-6 || c->num_inputs() != 1)
    return false;
  Node* shift = producer(c->input(0), "add");
  Value* x = shift != nullptr ? beside(shift, 3) : nullptr;
  if (x == nullptr) return false;
  Value* v = c->output(0);
  bool have_x = false, have_sixth = false;
  for (int step = 0; step < 2; ++step) {
    Node* m = sole_user(v);
    if (m == nullptr || !m->is("mul")) return false;
    Value* other = other_operand(m, v);
    if (other == x && !have_x) have_x = true;
    else if (is_scalar(other, 1.0 / 6) && !have_sixth) have_sixth = true;
    else return false;
    v = m->output(0);
  }
  return become(c, v, "hard_swish", x);
}

}  // namespace

int fuse_activations(Graph& graph, PassContext&) {
  int fused = 0;
  // The middle of a pattern comes before its end in the order, and only the end and what leads to it are erased, so a node is looked up
  // again before it is used.
  const auto pass = [&](std::string_view op, const auto& rule) {
    for (bool again = true; again;) {
      again = false;
      for (const auto& n : graph.nodes()) {
        if (!n->is(op) || !is_float(n->output(0)) || !rule(n.get())) continue;
        ++fused;
        again = true;
        break;
      }
    }
  };
  pass("erf", gelu_erf);
  pass("tanh", gelu_tanh);
  pass("clip", hard_swish);
  pass("mul", [](Node* m) { return gated(m, "sigmoid", "silu") || gated(m, "hard_sigmoid", "hard_swish") || mish(m); });
  return fused;
}

}  // namespace tokamak::passes
