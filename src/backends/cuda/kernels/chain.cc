#include "backends/cuda/kernels/chain.h"

#include <unordered_map>

#include "ir/op.h"
#include "runtime/step_memory.h"

namespace tokamak::cuda {
namespace {

// Where an argument of an inner kernel is: an outer input or output, or bytes of the workspace.
struct Argument {
  enum class In { Absent, Input, Output, Workspace };
  In in = In::Absent;
  int64_t at = 0;  // index, or offset in bytes
  DType dtype = DType::F32;
  Shape shape;
};

struct Step {
  std::unique_ptr<Kernel> kernel;
  std::vector<Argument> inputs, outputs;
  int64_t workspace = 0;  // offset in bytes
};

class ChainKernel final : public Kernel {
 public:
  ChainKernel(std::unique_ptr<ir::Graph> graph, std::vector<Step> steps, int64_t workspace_bytes)
      : graph_(std::move(graph)), steps_(std::move(steps)), workspace_bytes_(workspace_bytes) {}
  int64_t workspace_bytes() const override { return workspace_bytes_; }

  void run(const RunArgs& args) const override {
    std::vector<Tensor> inputs, outputs;
    for (const Step& step : steps_) {
      inputs.clear(), outputs.clear();
      for (const Argument& a : step.inputs) inputs.push_back(tensor(a, args));
      for (const Argument& a : step.outputs) outputs.push_back(tensor(a, args));
      RunArgs inner = args;
      inner.inputs = inputs, inner.outputs = outputs;
      inner.workspace = static_cast<std::byte*>(args.workspace) + step.workspace;
      step.kernel->run(inner);
    }
  }

 private:
  static Tensor tensor(const Argument& a, const RunArgs& args) {
    const auto view = [&](const void* data) { return Tensor::view(a.dtype, a.shape, data); };
    switch (a.in) {
      case Argument::In::Absent: break;
      case Argument::In::Input: return view(args.inputs[a.at].raw());
      case Argument::In::Output: return view(args.outputs[a.at].raw());
      case Argument::In::Workspace: return view(static_cast<const std::byte*>(args.workspace) + a.at);
    }
    return {};
  }

  std::unique_ptr<ir::Graph> graph_;  // kernels may refer to their nodes
  std::vector<Step> steps_;
  int64_t workspace_bytes_;
};

bool packs(const KernelDef& def, const NodeView& view) {
  const std::string tactic = def.tactics(view).front();
  for (int i = 0; i < view.num_inputs(); ++i)
    if (view.constants[i] != nullptr && def.pack(view, tactic, i).defined()) return true;
  return false;
}

}  // namespace

Chain::Chain(const NodeView& outer) : outer_(outer), graph_(std::make_unique<ir::Graph>()) {
  for (int i = 0; i < outer.num_inputs(); ++i) {
    const Shape& shape = outer.input_shapes[i];
    inputs_.push_back(!outer.has_input(i) ? nullptr
                                          : graph_->add_input(fmt::format("i{}", i),
                                                              ir::TensorType(outer.input_dtypes[i], ir::Dims(shape.begin(), shape.end()))));
  }
}

NodeView Chain::view(const ir::Node& node) const {
  NodeView view;
  view.node = &node;
  view.bindings = outer_.bindings;
  view.num_threads = outer_.num_threads;
  view.cuda = outer_.cuda;
  for (const ir::Value* v : node.inputs()) {
    view.input_dtypes.push_back(v ? v->type.dtype : DType::F32);
    view.input_shapes.push_back(v ? v->type.static_shape() : Shape());
    view.constants.push_back(nullptr);
    for (size_t i = 0; v && i < inputs_.size(); ++i)
      if (inputs_[i] == v) view.constants.back() = outer_.constants[i];
  }
  for (const ir::Value* v : node.outputs()) {
    view.output_dtypes.push_back(v->type.dtype);
    view.output_shapes.push_back(v->type.static_shape());
  }
  return view;
}

const KernelDef* Chain::find(const NodeView& view, std::string& reasons) const {
  const ir::Node& node = *view.node;
  for (const KernelDef* def : kernels_for(node.op().name)) {
    if (!node.kernel.empty() && node.kernel != def->name()) continue;
    const Support support = def->supports(view);
    if (support && !packs(*def, view)) return def;
    reasons += fmt::format("; {}: {}", def->name(), support ? "it packs weights" : support.reason());
  }
  return nullptr;
}

Support Chain::supports() const {
  for (const auto& node : graph_->nodes()) {
    if (node->op().has(ir::kView)) continue;
    std::string reasons;
    if (find(view(*node), reasons) == nullptr) return Support::no(fmt::format("no kernel for {}{}", node->op().name, reasons));
  }
  return Support::yes();
}

std::unique_ptr<Kernel> Chain::make(const std::vector<ir::Value*>& outputs) && {
  CHECK(static_cast<int>(outputs.size()) == outer_.num_outputs());
  std::unordered_map<const ir::Value*, int> slots;                // of values that lie in the workspace
  std::unordered_map<const ir::Value*, const ir::Value*> source;  // of views
  const auto root = [&](const ir::Value* v) {
    const auto found = source.find(v);
    return found == source.end() ? v : found->second;
  };
  const auto output_index = [&](const ir::Value* v) {
    for (size_t i = 0; i < outputs.size(); ++i)
      if (outputs[i] == v) return static_cast<int>(i);
    return -1;
  };
  std::vector<Step> steps;
  std::vector<const ir::Node*> nodes;
  std::vector<StepMemory> memory;
  for (const auto& node : graph_->nodes()) {
    if (node->op().has(ir::kView)) {
      source[node->output(0)] = root(node->input(0));
      continue;
    }
    const NodeView inner = view(*node);
    std::string reasons;
    const KernelDef* def = find(inner, reasons);
    if (def == nullptr) fail(ErrorCode::Unsupported, "[{}] no kernel for its {}{}", outer_.node->op().name, node->op().name, reasons);
    Step step;
    step.kernel = def->make(inner, node->kernel.empty() ? def->tactics(inner).front() : node->tactic);
    StepMemory use;
    use.kernel = step.kernel.get();
    for (const ir::Value* v : node->inputs()) {
      const auto found = v ? slots.find(root(v)) : slots.end();
      use.reads.push_back(found == slots.end() ? -1 : found->second);
    }
    for (const ir::Value* v : node->outputs()) {
      use.writes.push_back(output_index(v) >= 0 ? -1 : slots.emplace(v, static_cast<int>(slots.size())).first->second);
      use.write_bytes.push_back(bytes_of(v->type.dtype, num_elements(v->type.static_shape())));
    }
    steps.push_back(std::move(step));
    nodes.push_back(node.get());
    memory.push_back(std::move(use));
  }
  ArenaUse use;
  use.lifetime_of.assign(slots.size(), -1);
  use.is_shared.assign(slots.size(), false);
  plan_steps(memory, {}, use);
  const memory::Layout layout = memory::plan(use.lifetimes, memory::kDeviceAlignment);

  const auto argument = [&](const ir::Value* v) {
    Argument a;
    if (v == nullptr) return a;
    a.dtype = v->type.dtype, a.shape = v->type.static_shape();
    const ir::Value* const from = root(v);
    if (const auto found = slots.find(from); found != slots.end()) {
      a.in = Argument::In::Workspace, a.at = layout.offsets[use.lifetime_of[found->second]];
    } else if (const int o = output_index(from); o >= 0) {
      a.in = Argument::In::Output, a.at = o;
    } else {
      for (size_t i = 0; i < inputs_.size(); ++i)
        if (inputs_[i] == from) a.in = Argument::In::Input, a.at = static_cast<int64_t>(i);
      CHECK(a.in == Argument::In::Input);
    }
    return a;
  };
  for (size_t i = 0; i < outputs.size(); ++i)
    CHECK(outputs[i]->type.dtype == outer_.output_dtypes[i] && outputs[i]->producer() != nullptr && root(outputs[i]) == outputs[i] &&
          num_elements(outputs[i]->type.static_shape()) == num_elements(outer_.output_shapes[i]));
  for (size_t s = 0; s < steps.size(); ++s) {
    for (const ir::Value* v : nodes[s]->inputs()) steps[s].inputs.push_back(argument(v));
    for (const ir::Value* v : nodes[s]->outputs()) steps[s].outputs.push_back(argument(v));
    if (use.workspaces[s] >= 0) steps[s].workspace = layout.offsets[use.workspaces[s]];
  }
  return std::make_unique<ChainKernel>(std::move(graph_), std::move(steps), layout.arena_bytes);
}

}  // namespace tokamak::cuda
