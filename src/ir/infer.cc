#include "ir/infer.h"

#include "ir/op.h"

namespace tokamak::ir {

void infer_node(Node& node) {
  if (node.op().infer == nullptr) return;
  std::vector<ValueInfo> inputs;
  inputs.reserve(node.num_inputs());
  for (Value* v : node.inputs()) {
    ValueInfo info;
    if (v) info = {v->type, v->ints, v->constant};
    inputs.push_back(std::move(info));
  }
  Graph* graph = node.graph();
  InferContext context(node, std::move(inputs), node.num_outputs(), [graph] { return graph->fresh_symbol(); });
  node.op().infer(context);
  for (int i = 0; i < node.num_outputs(); ++i) {
    Value* v = node.output(i);
    if (v == nullptr) continue;
    v->type = std::move(context.outputs()[i].type);
    v->ints = std::move(context.outputs()[i].ints);
  }
}

void infer_types(Graph& graph) {
  for (const auto& node : graph.nodes()) {
    for (const auto& sub : node->subgraphs) infer_types(*sub);
    infer_node(*node);
  }
}

}  // namespace tokamak::ir
