#include "runtime/device_plan.h"

#include <algorithm>
#include <exception>

#include "backends/cpu/thread_pool.h"

namespace tokamak {
namespace {

constexpr int64_t kSmallInputBytes = 64 << 10;  // moved together: a transfer costs more than their bytes do

int64_t dense_bytes(const ir::TensorType& type) {
  return type.dtype == DType::String ? 0 : bytes_of(type.dtype, num_elements(type.static_shape()));
}

Place other(Place place) { return place == Place::Host ? Place::Device : Place::Host; }
int index(Place place) { return static_cast<int>(place); }
const char* name_of(Place place) { return place == Place::Host ? "host" : "GPU"; }

}  // namespace

DevicePlan::DevicePlan(const ir::Graph& graph, Binding binding, ThreadPool& pool, const cuda::Context& cuda,
                       std::vector<Place> input_places, Place output_place)
    : graph_(graph), binding_(std::move(binding)), input_places_(std::move(input_places)), output_place_(output_place) {
  CHECK(binding_.is_static && input_places_.size() == graph.inputs().size());
  for (const ir::Value* v : graph.inputs()) input_shapes_.push_back(type_of(v).static_shape());
  build_steps(make_kernels(pool, cuda));
  plan_memory();
}

int DevicePlan::slot_of(const ir::Value* value) {
  const auto [found, fresh] = slot_index_.emplace(value, static_cast<int>(slots_.size()));
  if (fresh) {
    Slot& slot = slots_.emplace_back();
    slot.value = value;
    slot.constant = binding_.at(value).info.constant;
    slot.constant_of_graph = value->is_constant();
  }
  return found->second;
}

int DevicePlan::constant_slot(Tensor constant) {
  slots_.emplace_back().constant = std::move(constant);
  return static_cast<int>(slots_.size()) - 1;
}

// Makes the slot available at `place` for what comes next; `who` is null for the outputs of the graph.
void DevicePlan::need(int slot, Place place, const ir::Node* who) {
  Slot& s = slots_[slot];
  if (s.constant.defined()) {
    if (place == Place::Device && s.constant_index < 0) {
      s.constant_index = static_cast<int>(constants_.size());
      constants_.push_back({s.constant, s.constant_of_graph});
    }
    return;
  }
  if (s.is_at[index(place)]) return;
  if (s.is_written)
    fail(ErrorCode::Unsupported, "{} needs the input \"{}\" on the {}, which is given on the {} and written there in place; {}",
         who ? fmt::format("[{} \"{}\"]", who->op().name, who->label()) : "the graph's output", s.value->name, name_of(place),
         name_of(other(place)), place == Place::Device ? "give it as a tensor of the GPU" : "there is no kernel for the GPU");
  s.is_at[index(place)] = true;
  if (place == Place::Device && s.graph_input >= 0) {
    input_copies_.push_back({s.graph_input, dense_bytes(type_of(s.value)), 0});
    return;
  }
  Step& step = steps_.emplace_back();
  step.kind = place == Place::Device ? StepKind::Upload : StepKind::Download;
  step.name = fmt::format("{} %{}", place == Place::Device ? "upload" : "download", s.value->name);
  step.input_slots = step.output_slots = {slot};
}

// Everything the node computes depended on shapes alone.
bool DevicePlan::is_known(const ir::Node& node) const {
  return std::all_of(node.outputs().begin(), node.outputs().end(),
                     [&](const ir::Value* v) { return binding_.at(v).info.constant.defined(); });
}

std::unordered_map<const ir::Node*, ReadyKernel> DevicePlan::make_kernels(ThreadPool& pool, const cuda::Context& cuda) const {
  std::vector<const ir::Node*> nodes;
  for (const auto& node : graph_.nodes())
    if (!is_known(*node) && !node->op().has(ir::kView)) nodes.push_back(node.get());
  std::vector<ReadyKernel> kernels(nodes.size());
  std::vector<std::exception_ptr> errors(nodes.size());
  pool.parallel_for(std::ssize(nodes), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) try {
        kernels[i] = make_kernel(make_view(*nodes[i], binding_, pool.width(), &cuda));
      } catch (...) {
        errors[i] = std::current_exception();
      }
  });
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  std::unordered_map<const ir::Node*, ReadyKernel> by_node;
  for (size_t i = 0; i < nodes.size(); ++i) by_node.emplace(nodes[i], std::move(kernels[i]));
  return by_node;
}

void DevicePlan::build_steps(std::unordered_map<const ir::Node*, ReadyKernel> kernels) {
  const ir::Graph& graph = graph_;
  for (size_t i = 0; i < graph.inputs().size(); ++i) {
    Slot& slot = slots_[slot_of(graph.inputs()[i])];
    slot.graph_input = static_cast<int>(i);
    slot.is_at[index(input_places_[i])] = true;
  }
  for (const auto& node : graph.nodes())
    if (const int written = node->op().written_input; written >= 0) slots_[slot_of(node->input(written))].is_written = true;

  for (const auto& node : graph.nodes()) {
    if (is_known(*node)) {
      for (const ir::Value* v : node->outputs())
        if (!v->uses().empty() && !node->op().has(ir::kView)) shape_constant_bytes_ += binding_.at(v).info.constant.size_bytes();
      continue;
    }
    if (node->op().has(ir::kView)) {  // the same bytes: no step
      slot_index_[node->output(0)] = slot_of(node->input(0));
      continue;
    }
    ReadyKernel& ready = kernels.at(node.get());
    if (!ready.fallback_reason.empty()) fallbacks_.push_back(node->label() + ": " + ready.fallback_reason);
    if (!ready.host_reason.empty())
      fallbacks_.push_back(fmt::format("{}: runs on the host ({}): {}", node->label(), ready.name, ready.host_reason));
    num_host_steps_ += ready.place == Place::Host;
    std::vector<int> input_slots;
    for (int i = 0; i < node->num_inputs(); ++i) {
      const ir::Value* v = node->input(i);
      const int slot = v == nullptr ? -1 : ready.packed[i].defined() ? constant_slot(std::move(ready.packed[i])) : slot_of(v);
      input_slots.push_back(slot);
      if (slot >= 0) need(slot, ready.place, node.get());
    }
    Step& step = steps_.emplace_back();
    step.node = node.get();
    step.name = node->label();
    step.place = ready.place;
    step.kernel_name = ready.name;
    step.kernel = std::move(ready.kernel);
    step.input_slots = std::move(input_slots);
    for (const ir::Value* v : node->outputs()) {
      const int slot = slot_of(v);
      step.output_slots.push_back(slot);
      slots_[slot].is_at[index(ready.place)] = true;
    }
    if (ready.place == Place::Device) largest_workspace_bytes_ = std::max(largest_workspace_bytes_, step.kernel->workspace_bytes());
  }
  for (const ir::Value* v : graph.outputs()) {
    const int slot = slot_of(v);
    need(slot, v->type.dtype == DType::String ? Place::Host : output_place_, nullptr);
    output_slots_.push_back(slot);
  }
}

// Where inputs from the host lie in pinned memory and on the GPU. Small ones share one piece of both.
void DevicePlan::plan_input_copies(ArenaUse& use) {
  const auto place_copy = [&](InputCopy& copy) {
    Slot& slot = slots_[slot_of(graph_.inputs()[copy.input])];
    copy.staging_offset = staging_bytes_;
    slot.offset = staging_bytes_ - staged_copies_.back().staging_offset;
    use.lifetime_of[slot_index_.at(graph_.inputs()[copy.input])] = staged_lifetimes_.back();
    use.is_shared[slot_index_.at(graph_.inputs()[copy.input])] = copy.size_bytes <= kSmallInputBytes;
    staging_bytes_ += (copy.size_bytes + memory::kDeviceAlignment - 1) / memory::kDeviceAlignment * memory::kDeviceAlignment;
    staged_copies_.back().size_bytes = copy.staging_offset + copy.size_bytes - staged_copies_.back().staging_offset;
    use.lifetimes.back().size_bytes = staged_copies_.back().size_bytes;
  };
  const auto new_piece = [&] {
    staged_copies_.push_back({staging_bytes_, 0, nullptr});
    staged_lifetimes_.push_back(static_cast<int>(use.lifetimes.size()));
    use.lifetimes.push_back({0, 0, 0});
  };
  std::stable_sort(input_copies_.begin(), input_copies_.end(), [](const InputCopy& a, const InputCopy& b) {
    return (a.size_bytes <= kSmallInputBytes) > (b.size_bytes <= kSmallInputBytes);
  });
  for (size_t i = 0; i < input_copies_.size(); ++i) {
    if (i == 0 || input_copies_[i].size_bytes > kSmallInputBytes) new_piece();
    place_copy(input_copies_[i]);
  }
}

void DevicePlan::plan_memory() {
  for (const Place place : {Place::Host, Place::Device}) {
    std::vector<StepMemory> memory;
    for (const Step& step : steps_) {
      const bool is_copy = step.kind != StepKind::Kernel;
      const Place reads = step.kind == StepKind::Upload ? Place::Host : is_copy ? Place::Device : step.place;
      const Place writes = is_copy ? other(reads) : step.place;
      StepMemory& m = memory.emplace_back();
      m.kernel = step.kernel.get();
      m.wants_workspace = step.place == place;
      if (reads == place) m.reads = step.input_slots;
      if (writes != place) continue;
      for (size_t o = 0; o < step.output_slots.size(); ++o) {
        const ir::TensorType& type = type_of(is_copy ? slots_[step.output_slots[o]].value : step.node->output(static_cast<int>(o)));
        m.writes.push_back(type.dtype == DType::String ? -1 : step.output_slots[o]);
        m.write_bytes.push_back(dense_bytes(type));
      }
    }
    ArenaUse use;
    use.lifetime_of.assign(slots_.size(), -1);
    use.is_shared.assign(slots_.size(), false);
    if (place == Place::Device) plan_input_copies(use);
    const std::vector<int> kept = place == output_place_ ? output_slots_ : std::vector<int>();
    plan_steps(memory, kept, use);
    for (size_t s = 0; s < slots_.size(); ++s) slots_[s].lifetime[index(place)] = use.lifetime_of[s];
    for (size_t s = 0; s < steps_.size(); ++s)
      if (steps_[s].place == place && steps_[s].kernel) steps_[s].workspace_lifetime = use.workspaces[s];
    if (place == Place::Host) host_layout_ = memory::plan(use.lifetimes);
    else device_layout_ = memory::plan(use.lifetimes, memory::kDeviceAlignment);
  }
  input_refs_.resize(graph_.inputs().size());
  outputs_.resize(output_slots_.size());
}

Tensor DevicePlan::tensor_at(int slot, Place place, DType dtype, const Shape& shape) const {
  const Slot& s = slots_[slot];
  if (s.constant.defined()) {
    const Tensor host = s.constant.layout().empty() && s.constant.shape() != shape ? s.constant.reshaped(shape) : s.constant;
    if (place == Place::Host) return host;
    return Tensor::packed_view(host.dtype(), host.shape(), host.layout(), constant_addresses_[s.constant_index], host.size_bytes(),
                               nullptr);
  }
  if (s.graph_input >= 0 && input_places_[s.graph_input] == place)
    return dtype == DType::String ? Tensor::empty(dtype, shape) : Tensor::view(dtype, shape, nullptr);
  if (dtype == DType::String) return Tensor::empty(dtype, shape);
  const int lifetime = s.lifetime[index(place)];
  CHECK(lifetime >= 0);
  return Tensor::view(
      dtype, shape,
      place == Place::Host ? host_arena_ + host_layout_.offsets[lifetime] : device_arena_ + device_layout_.offsets[lifetime] + s.offset);
}

void DevicePlan::place(std::byte* host_arena, std::byte* device_arena, const std::function<std::byte*(size_t)>& constant) {
  host_arena_ = host_arena;
  device_arena_ = device_arena;
  constant_addresses_.clear();
  for (size_t i = 0; i < constants_.size(); ++i) constant_addresses_.push_back(constant(i));
  for (auto& refs : input_refs_) refs.clear();
  std::unordered_map<int, Tensor> strings;  // a string value keeps one storage for its producer and its users
  const auto make = [&](int slot, Place place, const ir::Value* value, Tensor& out) {
    const Slot& s = slots_[slot];
    const ir::TensorType& type = type_of(value);
    out = tensor_at(slot, place, type.dtype, type.static_shape());
    if (s.constant.defined()) return;
    if (s.graph_input >= 0 && input_places_[s.graph_input] == place) {
      input_refs_[s.graph_input].push_back(&out);
    } else if (type.dtype == DType::String) {
      const auto [found, fresh] = strings.emplace(slot, out);
      if (!fresh) out.share_storage(found->second);
    }
  };
  for (Step& step : steps_) {
    step.inputs.assign(step.input_slots.size(), Tensor());
    step.outputs.assign(step.output_slots.size(), Tensor());
    if (step.kind != StepKind::Kernel) {
      const Place from = step.kind == StepKind::Upload ? Place::Host : Place::Device;
      const int slot = step.input_slots[0];
      make(slot, from, slots_[slot].value, step.inputs[0]);
      make(slot, other(from), slots_[slot].value, step.outputs[0]);
      continue;
    }
    for (size_t i = 0; i < step.input_slots.size(); ++i)
      if (step.input_slots[i] >= 0) make(step.input_slots[i], step.place, step.node->input(static_cast<int>(i)), step.inputs[i]);
    for (size_t o = 0; o < step.output_slots.size(); ++o)
      make(step.output_slots[o], step.place, step.node->output(static_cast<int>(o)), step.outputs[o]);
    if (step.workspace_lifetime < 0) step.workspace = nullptr;
    else if (step.place == Place::Host) step.workspace = host_arena_ + host_layout_.offsets[step.workspace_lifetime];
    else step.workspace = device_arena_ + device_layout_.offsets[step.workspace_lifetime];
  }
  for (size_t i = 0; i < output_slots_.size(); ++i) {
    const ir::Value* v = graph_.outputs()[i];
    make(output_slots_[i], v->type.dtype == DType::String ? Place::Host : output_place_, v, outputs_[i]);
  }
  for (size_t i = 0; i < staged_copies_.size(); ++i)
    staged_copies_[i].device = device_arena_ + device_layout_.offsets[staged_lifetimes_[i]];
}

// Of a kernel on the GPU.

void DevicePlan::set_input(int index, const Tensor& tensor) {
  for (Tensor* ref : input_refs_[index]) ref->share_storage(tensor);
}

int DevicePlan::num_copies() const {
  return static_cast<int>(input_copies_.size()) +
         static_cast<int>(std::count_if(steps_.begin(), steps_.end(), [](const Step& s) { return s.kind != StepKind::Kernel; }));
}

int DevicePlan::num_downloads() const {
  return static_cast<int>(std::count_if(steps_.begin(), steps_.end(), [](const Step& s) { return s.kind == StepKind::Download; }));
}

std::vector<StepInfo> DevicePlan::step_infos() const {
  std::vector<StepInfo> infos;
  for (const InputCopy& copy : input_copies_)
    infos.push_back({nullptr, "upload %" + graph_.inputs()[copy.input]->name, "", Place::Device, copy.size_bytes});
  for (const Step& step : steps_) {
    const int64_t bytes = step.kind == StepKind::Kernel ? 0 : dense_bytes(type_of(slots_[step.input_slots[0]].value));
    infos.push_back({step.node, step.name, step.kernel_name, step.place, bytes});
  }
  return infos;
}

}  // namespace tokamak
