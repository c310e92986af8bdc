// Pointwise work behind a matmul or an NHWC convolution moves into its `epilogue`: bias, activation, residual, scale, gate. Operands are
// literals, rows (one value a column) or tensors of the output's full shape. The product must have no other reader.

#include <algorithm>

#include "passes/expr_builder.h"
#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

constexpr int kMaxInstructions = 16;
constexpr int kMaxExtras = 4;

bool absorb(Node* product) {
  const Value* out = product->output(0);
  if (!is_float(out) || rank_of(out) < 2 || product->attrs.has("epilogue") || product->num_outputs() != 1) return false;
  const bool is_matmul = product->is("matmul") || product->is("quantized_matmul");
  const bool rows_ok = is_matmul || product->attrs.get_string("layout", "NCHW") == "NHWC";
  if (is_matmul && (rank_of(product->input(0)) < 2 || rank_of(product->input(1)) < 2)) return false;
  ExprBuilder expr;
  expr.bind_input(out, 0);
  std::vector<Value*> extras;
  std::vector<const Node*> nodes{product};
  Value* v = product->output(0);
  Node* last = nullptr;
  const Dim& columns = out->type.dims.back();
  while (Node* n = sole_user(v)) {
    if (!expressible(n) || !same_dims(n->output(0), out) || n->output(0)->type.dtype != out->type.dtype || expr.size() >= kMaxInstructions)
      break;
    std::vector<Value*> wanted;
    bool fits = true;
    for (Value* in : n->inputs()) {
      if (in == nullptr || in == v || expr.is_literal(in)) continue;
      if (std::find(extras.begin(), extras.end(), in) != extras.end() || std::find(wanted.begin(), wanted.end(), in) != wanted.end())
        continue;
      fits = fits && is_float(in) && ((rows_ok && is_row_vector(in, columns)) || (same_dims(in, out) && !in->is_constant()));
      wanted.push_back(in);
    }
    if (!fits || extras.size() + wanted.size() > kMaxExtras) break;
    for (Value* in : wanted) {
      extras.push_back(in);
      expr.bind_input(in, static_cast<int>(extras.size()));
    }
    expr.append(n);
    nodes.push_back(n);
    last = n;
    v = n->output(0);
  }
  if (last == nullptr) return false;
  expr.add_result(v);
  std::vector<Value*> inputs(product->inputs().begin(), product->inputs().end());
  if (product->is("conv")) inputs.resize(3, nullptr);
  Attrs attrs = product->attrs;
  attrs.set("epilogue", expr.text());
  attrs.set("epilogue_input", static_cast<int64_t>(inputs.size()));
  inputs.insert(inputs.end(), extras.begin(), extras.end());
  Value* y = product->graph()->build(product->op().name, inputs, attrs, last, product->name);
  y->producer()->origin = merged_origin(nodes);
  replace(v, y);
  return true;
}

}  // namespace

int fuse_epilogues(Graph& graph, PassContext& context) {
  int fused = 0;
  for (Node* n : graph.nodes_snapshot()) {
    // A product that feeds the residual of a later one keeps its own chain: both orders are right, the first in order wins.
    if (n->is("matmul") || n->is("quantized_matmul") || n->is("conv")) fused += absorb(n);
  }
  remove_dead(graph, context);
  return fused;
}

}  // namespace tokamak::passes
