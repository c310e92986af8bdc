#include "runtime/plan.h"

#include <chrono>

#include "backends/cpu/thread_pool.h"
#include "runtime/execution_context.h"
#include "runtime/step_memory.h"

namespace tokamak {
namespace {

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Plan::Plan(const ir::Graph& graph, Binding binding, int num_threads) : graph_(graph), binding_(std::move(binding)) {
  CHECK(binding_.is_static);
  for (const ir::Value* v : graph.inputs()) input_shapes_.push_back(binding_.at(v).info.type.static_shape());
  join_concats(graph, num_threads);
  build_steps(graph, num_threads);
  plan_memory(graph);
}

// Everything the node computes depended on shapes alone.
bool Plan::is_known(const ir::Node& node) const {
  return std::all_of(node.outputs().begin(), node.outputs().end(),
                     [&](const ir::Value* v) { return binding_.at(v).info.constant.defined(); });
}

// Concats of whole rows (of the last axis: channels) that need no copy, since each input has a producer that can write with the pitch of
// the output and no other user.
void Plan::join_concats(const ir::Graph& graph, int num_threads) {
  for (const auto& node : graph.nodes()) {
    if (!node->is("concat") || is_known(*node)) continue;
    const ir::Value* whole = node->output(0);
    const Shape shape = binding_.at(whole).info.type.static_shape();
    const int64_t rank = static_cast<int64_t>(shape.size()), axis = node->attrs.get_int("axis", 0);
    if ((axis < 0 ? axis + rank : axis) != rank - 1 || num_elements(shape) == 0) continue;
    std::unordered_map<const ir::Value*, Part> parts;
    int64_t offset = 0;
    for (const ir::Value* v : node->inputs()) {
      const ir::Node* producer = v->producer();
      if (producer == nullptr || !v->has_one_use() || v->output_index() != 0 || producer->op().has(ir::kView) || is_known(*producer)) break;
      if (!can_pitch_output(make_view(*producer, binding_, num_threads))) break;
      parts[v] = {whole, offset, shape.back()};
      offset += binding_.at(v).info.type.static_shape().back();
    }
    if (static_cast<int>(parts.size()) == node->num_inputs()) parts_.merge(parts);
  }
}

int Plan::slot_of(const ir::Value* value) {
  const auto [found, fresh] = slot_index_.emplace(value, static_cast<int>(slots_.size()));
  if (fresh) slots_.emplace_back();
  return found->second;
}

void Plan::build_steps(const ir::Graph& graph, int num_threads) {
  for (size_t i = 0; i < graph.inputs().size(); ++i) slots_[slot_of(graph.inputs()[i])].graph_input = static_cast<int>(i);
  for (const auto& node : graph.nodes()) {
    if (is_known(*node)) {
      for (const ir::Value* v : node->outputs()) {
        slots_[slot_of(v)].constant = binding_.at(v).info.constant;
        if (!v->uses().empty() && !node->op().has(ir::kView)) shape_constant_bytes_ += binding_.at(v).info.constant.size_bytes();
      }
      continue;
    }
    if (node->op().has(ir::kView)) {  // the same bytes: no step
      const ir::Value* source = node->input(0);
      if (source->is_constant()) slots_[slot_of(source)].constant = source->constant;
      slot_index_[node->output(0)] = slot_of(source);
      continue;
    }
    if (node->is("concat") && parts_.contains(node->input(0))) {  // its producers do it
      slot_of(node->output(0));
      continue;
    }
    NodeView view = make_view(*node, binding_, num_threads);
    const auto part = parts_.find(node->output(0));
    if (part != parts_.end()) view.output_pitch = part->second.pitch;
    ReadyKernel ready = make_kernel(std::move(view));
    if (!ready.fallback_reason.empty()) fallbacks_.push_back(node->label() + ": " + ready.fallback_reason);
    Step step;
    step.node = node.get();
    step.kernel_name = ready.name;
    step.kernel = std::move(ready.kernel);
    for (int i = 0; i < node->num_inputs(); ++i) {
      const ir::Value* v = node->input(i);
      if (v == nullptr) {
        step.input_slots.push_back(-1);
        continue;
      }
      if (ready.packed[i].defined()) {  // a constant of this step's own
        step.input_slots.push_back(static_cast<int>(slots_.size()));
        slots_.emplace_back().constant = std::move(ready.packed[i]);
        continue;
      }
      const int slot = slot_of(v);
      if (const Tensor& constant = binding_.at(v).info.constant; constant.defined()) slots_[slot].constant = constant;
      step.input_slots.push_back(slot);
    }
    for (const ir::Value* v : node->outputs()) step.output_slots.push_back(slot_of(v));
    steps_.push_back(std::move(step));
  }
  for (const ir::Value* v : graph.outputs()) {
    const int slot = slot_of(v);
    if (const Tensor& constant = binding_.at(v).info.constant; constant.defined()) slots_[slot].constant = constant;
    output_slots_.push_back(slot);
  }
}

void Plan::plan_memory(const ir::Graph& graph) {
  std::vector<StepMemory> memory;
  for (const Step& step : steps_) {
    StepMemory& m = memory.emplace_back();
    m.kernel = step.kernel.get();
    m.reads = step.input_slots;
    for (size_t o = 0; o < step.output_slots.size(); ++o) {
      const ir::Value* value = step.node->output(static_cast<int>(o));
      const ir::TensorType& type = binding_.at(value).info.type;
      const bool in_arena = type.dtype != DType::String;  // strings live in their own tensor
      const int slot = step.output_slots[o];
      m.writes.push_back(in_arena ? slot : -1);
      m.write_bytes.push_back(in_arena ? bytes_of(type.dtype, num_elements(type.static_shape())) : 0);
      const auto part = parts_.find(value);
      const bool is_part = part != parts_.end();
      m.part_of.push_back(is_part ? slot_of(part->second.whole) : -1);
      m.whole_bytes.push_back(is_part ? bytes_of(type.dtype, num_elements(binding_.at(part->second.whole).info.type.static_shape())) : 0);
      if (is_part) slots_[slot].offset_bytes = bytes_of(type.dtype, part->second.offset);
    }
  }
  ArenaUse use;
  use.lifetime_of.assign(slots_.size(), -1);
  use.is_shared.assign(slots_.size(), false);
  plan_steps(memory, output_slots_, use);
  for (size_t s = 0; s < slots_.size(); ++s) slots_[s].lifetime = use.lifetime_of[s];
  for (size_t s = 0; s < steps_.size(); ++s) steps_[s].workspace_lifetime = use.workspaces[s];
  layout_ = memory::plan(use.lifetimes);

  // Tensors exist from here on; place() only moves their pointers.
  input_refs_.resize(graph.inputs().size());
  outputs_.resize(output_slots_.size());
}

Tensor Plan::tensor_at(int slot, DType dtype, const Shape& shape) const {
  const Slot& s = slots_[slot];
  if (s.constant.defined()) return s.constant.layout().empty() && s.constant.shape() != shape ? s.constant.reshaped(shape) : s.constant;
  // Strings and graph inputs get their storage elsewhere; until then only shape and dtype count.
  if (dtype == DType::String) return Tensor::empty(dtype, shape);
  return Tensor::view(dtype, shape, s.graph_input >= 0 ? nullptr : arena_ + layout_.offsets[s.lifetime] + s.offset_bytes);
}

void Plan::place(std::byte* arena) {
  arena_ = arena;
  for (auto& refs : input_refs_) refs.clear();
  std::unordered_map<int, Tensor> strings;  // a string value keeps one storage for its producer and its users
  const auto make = [&](int slot, const ir::Value* value, Tensor& out) {
    const ir::TensorType& type = binding_.at(value).info.type;
    out = tensor_at(slot, type.dtype, type.static_shape());
    if (slots_[slot].constant.defined()) return;
    if (const int input = slots_[slot].graph_input; input >= 0) {
      input_refs_[input].push_back(&out);
    } else if (type.dtype == DType::String) {
      const auto [found, fresh] = strings.emplace(slot, out);
      if (!fresh) out.share_storage(found->second);
    }
  };
  for (Step& step : steps_) {
    step.inputs.assign(step.input_slots.size(), Tensor());
    step.outputs.assign(step.output_slots.size(), Tensor());
    for (size_t i = 0; i < step.input_slots.size(); ++i)
      if (step.input_slots[i] >= 0) make(step.input_slots[i], step.node->input(static_cast<int>(i)), step.inputs[i]);
    for (size_t o = 0; o < step.output_slots.size(); ++o)
      make(step.output_slots[o], step.node->output(static_cast<int>(o)), step.outputs[o]);
    step.workspace = step.workspace_lifetime >= 0 ? arena_ + layout_.offsets[step.workspace_lifetime] : nullptr;
  }
  for (size_t i = 0; i < output_slots_.size(); ++i) make(output_slots_[i], graph_.outputs()[i], outputs_[i]);
}

void Plan::set_input(int index, const Tensor& tensor) {
  for (Tensor* ref : input_refs_[index]) ref->share_storage(tensor);
}

std::vector<StepInfo> Plan::step_infos() const {
  std::vector<StepInfo> infos;
  for (const Step& step : steps_) infos.push_back({step.node, step.node->label(), std::string(step.kernel_name), Place::Host, 0});
  return infos;
}

void Plan::run(ThreadPool& pool, Profiler* profiler) {
  for (Step& step : steps_) {
    const int64_t start = profiler ? now_ns() : 0;
    step.kernel->run({step.inputs, step.outputs, step.workspace, &pool});
    if (profiler) profiler->on_node(*step.node, start, now_ns());
  }
}

}  // namespace tokamak
