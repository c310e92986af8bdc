#include "quant/bf16.h"

namespace tokamak::quant {

int weights_to_bf16(ir::Graph& graph, ThreadPool& pool) {
  int count = 0;
  for (const ConstantMatrix& m : constant_matrices(graph)) {
    if (m.value->constant.dtype() != DType::BF16) {
      const Tensor narrow = converted(m.value->constant, DType::BF16, pool);
      if (!narrow.defined()) continue;
      ir::Value* value = m.value->graph()->add_constant(narrow, m.value->name);
      for (ir::Node* node : m.products) node->set_input(1, value);
      value->graph()->drop_unused_values();
    }
    count += static_cast<int>(m.products.size());
  }
  return count;
}

}  // namespace tokamak::quant
