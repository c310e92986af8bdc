#include "passes/evaluate.h"

#include <unordered_map>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/thread_pool.h"
#include "ir/op.h"
#include "passes/match.h"

namespace tokamak::passes {

std::optional<std::vector<Tensor>> evaluate(const ir::Node& node, const std::vector<Tensor>& inputs, const ir::Dim::Bindings& bindings) {
  const KernelDef* def = cpu::find_kernel("ref." + std::string(node.op().name));
  if (def == nullptr || node.op().infer == nullptr || node.op().has(ir::kDataDependentShape) || !node.subgraphs.empty())
    return std::nullopt;

  std::vector<ir::ValueInfo> infos;
  NodeView view;
  view.node = &node;
  view.bindings = bindings;
  for (const Tensor& t : inputs) {
    ir::ValueInfo info;
    if (t.defined()) {
      info.type = ir::TensorType::of(t);
      info.constant = t;
    }
    infos.push_back(std::move(info));
    view.input_dtypes.push_back(t.defined() ? t.dtype() : DType::F32);
    view.input_shapes.push_back(t.defined() ? t.shape() : Shape{});
    const ir::Value* v = node.input(static_cast<int>(view.constants.size()));
    view.constants.push_back(v != nullptr && t.defined() && v->is_constant() ? &t : nullptr);
  }
  int fresh = 0;
  ir::InferContext context(
      node, std::move(infos), node.num_outputs(), [&] { return Dim::symbol("_unknown" + std::to_string(fresh++)); }, &bindings);
  node.op().infer(context);
  for (const ir::ValueInfo& out : context.outputs()) {
    if (!out.type.is_static()) return std::nullopt;
    view.output_dtypes.push_back(out.type.dtype);
    view.output_shapes.push_back(out.type.static_shape());
  }
  if (!def->supports(view)) return std::nullopt;
  std::vector<Tensor> outputs;
  bool is_empty = true;
  for (int i = 0; i < view.num_outputs(); ++i) {
    outputs.push_back(node.output(i) == nullptr ? Tensor() : Tensor::empty(view.output_dtypes[i], view.output_shapes[i]));
    is_empty &= outputs.back().count() == 0;
  }
  if (is_empty) return outputs;  // nothing to compute

  const auto kernel = def->make(view, def->tactics(view).front());
  Tensor workspace = Tensor::empty(DType::U8, {std::max<int64_t>(kernel->workspace_bytes(), 1)});
  static ThreadPool pool(1);
  RunArgs args;
  args.inputs = inputs;
  args.outputs = outputs;
  args.workspace = workspace.raw();
  args.pool = &pool;
  kernel->run(args);
  return outputs;
}

std::vector<Tensor> evaluate(const ir::Graph& graph, const std::vector<Tensor>& inputs) {
  std::unordered_map<const ir::Value*, Tensor> values;
  ir::Dim::Bindings bindings;
  CHECK(inputs.size() == graph.inputs().size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const ir::Value* v = graph.inputs()[i];
    values[v] = inputs[i];
    for (int64_t d = 0; d < v->type.rank(); ++d)
      if (auto s = v->type.dims[d].as_symbol()) bindings[*s] = inputs[i].dim(d);
  }
  const auto get = [&](const ir::Value* v) { return v == nullptr ? Tensor() : v->is_constant() ? v->constant : values.at(v); };
  for (const auto& node : graph.nodes()) {
    std::vector<Tensor> in;
    for (const ir::Value* v : node->inputs()) in.push_back(get(v));
    auto out = evaluate(*node, in, bindings);
    if (!out) fail(ErrorCode::Unsupported, "[{} \"{}\"] cannot be evaluated with the reference kernels", node->op().name, node->label());
    for (int i = 0; i < node->num_outputs(); ++i)
      if (node->output(i) != nullptr) values[node->output(i)] = (*out)[i];
  }
  std::vector<Tensor> results;
  for (const ir::Value* v : graph.outputs()) results.push_back(get(v));
  return results;
}

}  // namespace tokamak::passes
