#include "quant/bf16.h"

#include <cmath>
#include <unordered_map>

#include "base/half.h"
#include "ir/op.h"

namespace tokamak::quant {
namespace {

// Undefined when a finite value would become infinite.
Tensor to_bf16(const Tensor& weights) {
  Tensor out = Tensor::empty(DType::BF16, weights.shape());
  const float* from = weights.data<float>();
  uint16_t* to = out.data<uint16_t>();
  for (int64_t i = 0; i < weights.count(); ++i) {
    to[i] = float_to_bfloat16(from[i]);
    if (std::isfinite(from[i]) && !std::isfinite(bfloat16_to_float(to[i]))) return {};
  }
  return out;
}

}  // namespace

int weights_to_bf16(ir::Graph& graph) {
  int changed = 0;
  ir::for_each_graph(graph, [&](ir::Graph& g) {
    std::unordered_map<const ir::Value*, ir::Value*> converted;
    for (ir::Node* node : g.nodes_snapshot()) {
      ir::Value* b = node->input(1);
      if (!node->is("matmul") || !b->is_constant() || b->constant.dtype() != DType::F32 || b->constant.rank() != 2 ||
          !b->constant.layout().empty())
        continue;
      if (node->input(0)->type.dtype != DType::F32) continue;
      ir::Value*& value = converted[b];
      if (value == nullptr) {
        const Tensor narrow = to_bf16(b->constant);
        if (!narrow.defined()) continue;
        value = g.add_constant(narrow, b->name);
      }
      node->set_input(1, value);
      ++changed;
    }
    g.drop_unused_values();
  });
  return changed;
}

}  // namespace tokamak::quant
