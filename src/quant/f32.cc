#include "quant/f32.h"

namespace tokamak::quant {

int weights_to_f32(ir::Graph& graph, ThreadPool& pool) {
  int count = 0;
  for (const ConstantMatrix& m : constant_matrices(graph)) {
    if (m.value->constant.dtype() == DType::F32) continue;
    ir::Value* value = m.value->graph()->add_constant(converted(m.value->constant, DType::F32, pool), m.value->name);
    for (ir::Node* node : m.products) node->set_input(1, value);
    value->graph()->drop_unused_values();
    count += static_cast<int>(m.products.size());
  }
  return count;
}

}  // namespace tokamak::quant
