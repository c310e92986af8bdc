// Nodes whose inputs are all constants are run now, with the reference kernels. Results that would bloat the engine stay as they are:
// an expand, fill or tile over 1 MiB is folded only when it becomes the weight of a convolution or matmul, or feeds another constant.

#include "passes/evaluate.h"
#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

constexpr int64_t kLargeBytes = int64_t{1} << 20;
constexpr int64_t kLimitBytes = int64_t{1} << 30;

bool wants_constant(const Value* v) {
  for (const ir::Use& u : v->uses()) {
    if (u.index >= 1 && (u.node->is("conv") || u.node->is("matmul") || u.node->is("conv_transpose") || u.node->is("batch_norm")))
      return true;
    bool rest_constant = true;
    for (int i = 0; i < u.node->num_inputs(); ++i) {
      const Value* other = u.node->input(i);
      rest_constant = rest_constant && (other == nullptr || other == v || other->is_constant());
    }
    if (rest_constant) return true;
  }
  return false;
}

bool worth_folding(const Node* n) {
  int64_t bytes = 0;
  for (const Value* v : n->outputs()) {
    if (v == nullptr) continue;
    if (!v->type.is_static()) return false;
    const Shape shape = v->type.static_shape();
    bytes += bytes_of(v->type.dtype, num_elements(shape));
  }
  if (bytes > kLimitBytes) return false;
  if (bytes <= kLargeBytes) return true;
  if (n->is("expand") || n->is("fill") || n->is("tile")) return wants_constant(n->output(0));
  int64_t input_bytes = 0;
  for (const Value* v : n->inputs()) input_bytes += v != nullptr ? v->constant.size_bytes() : 0;
  return bytes <= 2 * input_bytes || wants_constant(n->output(0));
}

}  // namespace

int fold_constants(Graph& graph, PassContext&) {
  int folded = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (!n->op().is_pure() || !n->subgraphs.empty() || n->num_outputs() == 0) continue;
    bool constant = true, strings = false;
    std::vector<Tensor> inputs;
    for (const Value* v : n->inputs()) {
      if (v != nullptr && (!v->is_constant() || !v->constant.layout().empty())) {
        constant = false;
        break;
      }
      inputs.push_back(v == nullptr ? Tensor() : v->constant);
      strings = strings || (v != nullptr && v->constant.dtype() == DType::String);
    }
    for (const Value* v : n->outputs()) strings = strings || (v != nullptr && v->type.dtype == DType::String);
    if (!constant || strings || !worth_folding(n)) continue;
    const auto outputs = evaluate(*n, inputs);
    if (!outputs) continue;
    for (int i = 0; i < n->num_outputs(); ++i)
      if (n->output(i) != nullptr) replace(n->output(i), graph.add_constant((*outputs)[i], n->output(i)->name + ".folded"));
    erase_if_dead(n);
    ++folded;
  }
  return folded;
}

}  // namespace tokamak::passes
