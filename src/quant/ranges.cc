#include "quant/ranges.h"

#include <algorithm>
#include <cmath>

#include "quant/sample_inputs.h"
#include "runtime/interpreter.h"

namespace tokamak::quant {
namespace {

double largest_of(const Tensor& t, ThreadPool& pool) {
  std::vector<float> of_worker(pool.width(), 0);
  const float* x = t.data<float>();
  pool.parallel_for(t.count(), 1 << 14, [&](int64_t begin, int64_t end, int worker) {
    float most = 0;
    for (int64_t i = begin; i < end; ++i)
      if (const float a = std::fabs(x[i]); a <= std::numeric_limits<float>::max()) most = std::max(most, a);
    of_worker[worker] = std::max(of_worker[worker], most);
  });
  return *std::max_element(of_worker.begin(), of_worker.end());
}

}  // namespace

double gflop_of(const ir::Graph& graph, const Binding& binding) {
  double work = 0;
  for (const auto& node : graph.nodes()) {
    if (!node->is("matmul") && !node->is("quantized_matmul") && !node->is("conv")) continue;
    const auto known = [&](const ir::Value* v) { return binding.values.contains(v) && binding.at(v).is_static(); };
    if (!known(node->input(0)) || !known(node->input(1)) || !known(node->output(0))) continue;
    const auto out = static_cast<double>(num_elements(binding.at(node->output(0)).info.type.static_shape()));
    const Shape a = binding.at(node->input(0)).info.type.static_shape(), b = binding.at(node->input(1)).info.type.static_shape();
    double k = 1;
    if (node->is("conv")) k = b[0] == 0 ? 0 : static_cast<double>(num_elements(b) / b[0]);
    else if (!a.empty()) k = static_cast<double>(node->attrs.get_bool("trans_a", false) && a.size() > 1 ? a[a.size() - 2] : a.back());
    work += 2 * out * k;
  }
  return work * 1e-9;
}

Ranges measure_ranges(const ir::Graph& graph, const std::vector<Shape>& shapes, ThreadPool& pool) {
  Ranges ranges;
  const auto note = [&](const ir::Value* v, const Tensor& t) {
    if (t.defined() && t.dtype() == DType::F32 && v->graph() == &graph) ranges.largest[v] = largest_of(t, pool);
  };
  ir::Dim::Bindings symbols;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const ir::Value* input = graph.inputs()[i];
    bind_symbols(input->name, input->type, shapes[i], symbols);
    ranges.inputs.push_back(sample_input(*input, shapes[i]));
    note(input, ranges.inputs.back());
  }
  Interpreter interpreter(pool.width(), pool);
  interpreter.set_observer([&](const ir::Node& node, std::span<const Tensor> outputs) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      const ir::Value* v = node.output(static_cast<int>(i));
      if (v == nullptr) continue;
      note(v, outputs[i]);
      if (const auto found = ranges.largest.find(v); found != ranges.largest.end())
        ranges.by_layer.emplace_back(node.label(), found->second);
    }
  });
  ranges.outputs = interpreter.run(graph, ranges.inputs, symbols, nullptr);
  return ranges;
}

}  // namespace tokamak::quant
