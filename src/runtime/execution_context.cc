#include "runtime/execution_context.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>

#include "backends/cpu/thread_pool.h"
#include "runtime/communicator.h"
#include "runtime/device_executor.h"
#include "runtime/interpreter.h"
#include "runtime/plan.h"

namespace tokamak {
namespace {

std::shared_ptr<ThreadPool> shared_pool(int width) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<ThreadPool>> pools;
  const std::lock_guard lock(mutex);
  auto pool = pools[width].lock();
  if (!pool) pools[width] = pool = std::make_shared<ThreadPool>(width);
  return pool;
}

struct Arena {
  std::byte* data = nullptr;
  int64_t size_bytes = 0;
  ~Arena() { std::free(data); }
  void grow(int64_t bytes) {
    if (bytes <= size_bytes) return;
    std::free(data);
    size_bytes = 0;
    data = static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>(bytes + 63) / 64 * 64));
    if (data == nullptr) fail(ErrorCode::ResourceExhausted, "cannot allocate {} bytes for activations and workspace", bytes);
    size_bytes = bytes;
  }
};

void check_communicator(const ir::Graph& graph, const Communicator* communicator) {
  for (const auto& node : graph.nodes()) {
    if (!node->is("all_reduce")) continue;
    const int64_t rank = node->attrs.get_int("rank"), world_size = node->attrs.get_int("world_size");
    if (communicator == nullptr)
      fail(ErrorCode::InvalidArgument, "this engine is rank {} of {} of a split model; its context needs a communicator to the others",
           rank, world_size);
    if (communicator->rank() != rank || communicator->world_size() != world_size)
      fail(ErrorCode::InvalidArgument, "this engine is rank {} of {} of a split model, the communicator given is of rank {} of {}", rank,
           world_size, communicator->rank(), communicator->world_size());
  }
}

}  // namespace

#ifndef TOKAMAK_CUDA
std::unique_ptr<DeviceExecutor> make_device_executor(std::shared_ptr<const Engine> engine, const ContextOptions&,
                                                     std::shared_ptr<ThreadPool>) {
  fail(ErrorCode::Unsupported,
       "this engine was built for a GPU ({}), and this build of Tokamak has no CUDA backend; build it with --device cpu",
       engine->info().target);
}
#endif

struct ExecutionContext::Impl {
  std::shared_ptr<const Engine> engine;
  ContextOptions options;
  std::shared_ptr<ThreadPool> pool;
  Profiler* profiler = nullptr;
  std::vector<Tensor> inputs;
  std::vector<Place> input_places;
  std::unique_ptr<DeviceExecutor> device;    // of an engine for a GPU; plans, arena and current are then its own
  std::vector<std::unique_ptr<Plan>> plans;  // most recently used first
  Plan* current = nullptr;                   // plan for `inputs`, null when it must be found
  bool is_dynamic = false;                   // this graph runs node by node
  std::unique_ptr<Interpreter> interpreter;  // keeps kernels of `device`
  std::vector<Tensor> dynamic_outputs;
  Arena arena;
  Plan* ran = nullptr;  // whose outputs are valid; null before run()
  bool has_run = false;

  int64_t memory_limit() const { return options.memory_limit_bytes ? options.memory_limit_bytes : engine->info().workspace_limit_bytes; }

  const ShapeRange* range_of(const std::string& name) const {
    const auto& profiles = engine->info().profiles;
    if (profiles.empty()) return nullptr;
    for (const ShapeRange& range : profiles[options.profile])
      if (range.input == name) return &range;
    return nullptr;
  }

  bool matches(const Plan& plan) const {
    for (size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].shape() != plan.input_shapes()[i]) return false;
    return true;
  }

  void become_dynamic() {
    if (device)
      for (const auto& node : engine->graph().nodes())
        if (node->op().written_input >= 0)
          fail(ErrorCode::Unsupported, "[{} \"{}\"] writes its input in place, which needs shapes that do not depend on data",
               node->op().name, node->label());
    is_dynamic = true;
    interpreter = std::make_unique<Interpreter>(pool->width(), *pool, device.get());
  }

  void find_plan() {
    if (current && matches(*current)) return;
    current = nullptr;
    for (size_t i = 0; i < plans.size(); ++i) {
      if (!matches(*plans[i])) continue;
      std::rotate(plans.begin(), plans.begin() + static_cast<std::ptrdiff_t>(i), plans.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      current = plans[0].get();
      return;
    }
    std::vector<Shape> shapes;
    for (const Tensor& t : inputs) shapes.push_back(t.shape());
    Binding binding = bind_shapes(engine->graph(), shapes, pool->width());
    if (!binding.is_static) {
      become_dynamic();
      return;
    }
    auto plan = std::make_unique<Plan>(engine->graph(), std::move(binding), pool->width());
    if (memory_limit() > 0 && plan->arena_bytes() > memory_limit())
      fail(ErrorCode::ResourceExhausted, "these shapes need {} bytes of activations and workspace, the limit is {}; a limit of {} would do",
           plan->arena_bytes(), memory_limit(), plan->arena_bytes());
    if (plans.size() == static_cast<size_t>(options.max_plans)) plans.pop_back();
    plans.insert(plans.begin(), std::move(plan));
    current = plans[0].get();
  }

  void prepare() {
    for (size_t i = 0; i < inputs.size(); ++i)
      if (!inputs[i].defined())
        fail(ErrorCode::InvalidArgument, "input \"{}\" ({}) was not set", engine->inputs()[i].name, to_string(engine->inputs()[i].type));
    if (is_dynamic) return;
    if (device) {
      if (!device->prepare(inputs, input_places)) become_dynamic();
      return;
    }
    find_plan();
    if (is_dynamic) return;
    arena.grow(std::max<int64_t>(current->arena_bytes(), 64));
    if (current != ran) has_run = false;  // the arena now belongs to another plan
    if (current->placed_at() != arena.data) current->place(arena.data);
    for (size_t i = 0; i < inputs.size(); ++i) current->set_input(static_cast<int>(i), inputs[i]);
  }

  void run_dynamic() {
    ir::Dim::Bindings symbols;
    std::vector<Tensor> actual = inputs;
    for (size_t i = 0; i < inputs.size(); ++i) {
      bind_symbols(engine->inputs()[i].name, engine->inputs()[i].type, inputs[i].shape(), symbols);
      if (input_places[i] == Place::Device) actual[i] = device->to_host(inputs[i]);
    }
    dynamic_outputs = interpreter->run(engine->graph(), actual, symbols, profiler);
    if (device && options.output_place == Place::Device)
      for (Tensor& t : dynamic_outputs)
        if (t.dtype() != DType::String) t = device->to_device(t);
  }
};

ExecutionContext::ExecutionContext(std::shared_ptr<const Engine> engine, ContextOptions options) : impl_(std::make_unique<Impl>()) {
  const auto num_profiles = static_cast<int>(std::max<size_t>(engine->info().profiles.size(), 1));
  if (options.profile < 0 || options.profile >= num_profiles)
    fail(ErrorCode::OutOfRange, "optimization profile {} does not exist; the engine has {} (0 to {})", options.profile, num_profiles,
         num_profiles - 1);
  if (options.max_plans < 1) fail(ErrorCode::InvalidArgument, "max_plans is {}, expected 1 or more", options.max_plans);
  check_communicator(engine->graph(), options.communicator.get());
  impl_->pool = options.pool ? options.pool : shared_pool(std::clamp(engine->info().num_threads, 1, available_threads()));
  impl_->inputs.resize(engine->inputs().size());
  impl_->input_places.resize(engine->inputs().size(), Place::Host);
  if (engine->is_cuda()) impl_->device = make_device_executor(engine, options, impl_->pool);
  impl_->engine = std::move(engine);
  impl_->options = std::move(options);
}

ExecutionContext::~ExecutionContext() = default;

void ExecutionContext::set_input(std::string_view name, Tensor tensor, Place place) {
  const auto& infos = impl_->engine->inputs();
  for (size_t i = 0; i < infos.size(); ++i) {
    const TensorInfo& info = infos[i];
    if (info.name != name) continue;
    if (!tensor.defined()) fail(ErrorCode::InvalidArgument, "input \"{}\": the tensor is empty", name);
    if (tensor.dtype() != info.dtype)
      fail(ErrorCode::InvalidArgument, "input \"{}\": expected elements of {}, found {}", name, to_string(info.dtype),
           to_string(tensor.dtype()));
    if (place == Place::Device && !impl_->device)
      fail(ErrorCode::InvalidArgument, "input \"{}\": a tensor of a GPU was given to an engine for the CPU", name);
    if (!impl_->inputs[i].defined() || impl_->inputs[i].shape() != tensor.shape()) {
      ir::Dim::Bindings symbols;
      bind_symbols(info.name, info.type, tensor.shape(), symbols);
      if (const ShapeRange* range = impl_->range_of(info.name)) {
        for (int64_t d = 0; d < tensor.rank(); ++d)
          if (tensor.shape()[d] < range->min[d] || tensor.shape()[d] > range->max[d])
            fail(ErrorCode::OutOfRange,
                 "input \"{}\": dimension {} is {} in {}, but the engine's profile {} accepts {} to {} (min {}, max {})", name, d,
                 tensor.shape()[d], to_string(tensor.shape()), impl_->options.profile, range->min[d], range->max[d], to_string(range->min),
                 to_string(range->max));
      }
      impl_->current = nullptr;
    }
    impl_->inputs[i] = std::move(tensor);
    impl_->input_places[i] = place;
    return;
  }
  std::string known;
  for (const TensorInfo& info : infos) known += (known.empty() ? "" : ", ") + info.name;
  fail(ErrorCode::NotFound, "there is no input named \"{}\"; the inputs are: {}", name, known);
}

void ExecutionContext::prepare() { impl_->prepare(); }

DeviceNeeds ExecutionContext::device_needs() {
  return impl_->device ? impl_->device->needs(impl_->inputs, impl_->input_places) : DeviceNeeds{};
}

void ExecutionContext::run() {
  run_async();
  synchronize();
}

void ExecutionContext::run_async() {
  const CommunicatorScope scope(impl_->options.communicator.get());
  impl_->prepare();
  if (impl_->is_dynamic) {
    impl_->run_dynamic();
  } else if (impl_->device) {
    impl_->device->run_async(impl_->inputs, impl_->profiler);
  } else {
    impl_->current->run(*impl_->pool, impl_->profiler);
    impl_->ran = impl_->current;
  }
  impl_->has_run = true;
}

void ExecutionContext::synchronize() {
  if (impl_->device) impl_->device->synchronize();
}

CUstream_st* ExecutionContext::stream() const { return impl_->device ? impl_->device->stream() : nullptr; }

const Tensor& ExecutionContext::output(int index) const {
  if (index < 0 || index >= static_cast<int>(impl_->engine->outputs().size()))
    fail(ErrorCode::NotFound, "there is no output {}; the engine has {}", index, impl_->engine->outputs().size());
  if (!impl_->has_run) fail(ErrorCode::InvalidArgument, "output {} was asked for before run()", index);
  if (impl_->is_dynamic) return impl_->dynamic_outputs[index];
  return impl_->device ? impl_->device->output(index) : impl_->ran->output(index);
}

const Tensor& ExecutionContext::output(std::string_view name) const {
  const auto& infos = impl_->engine->outputs();
  for (size_t i = 0; i < infos.size(); ++i)
    if (infos[i].name == name) return output(static_cast<int>(i));
  std::string known;
  for (const TensorInfo& info : infos) known += (known.empty() ? "" : ", ") + info.name;
  fail(ErrorCode::NotFound, "there is no output named \"{}\"; the outputs are: {}", name, known);
}

std::vector<StepInfo> ExecutionContext::steps() const {
  if (impl_->device) return impl_->device->steps();
  return impl_->current ? impl_->current->step_infos() : std::vector<StepInfo>();
}

std::vector<std::string> ExecutionContext::fallbacks() const {
  std::vector<std::string> out;
  if (impl_->device) out = impl_->device->fallbacks();
  else if (impl_->current) out = impl_->current->fallbacks();
  if (impl_->device && impl_->is_dynamic)
    out.push_back(
        fmt::format("the shapes of this graph depend on data, or it has control flow: it runs node by node on the host; {} of its "
                    "kernels run on the GPU, between copies",
                    impl_->interpreter->num_device_kernels()));
  return out;
}

void ExecutionContext::set_profiler(Profiler* profiler) { impl_->profiler = profiler; }

MemoryStats ExecutionContext::memory() const {
  MemoryStats stats;
  stats.weights_bytes = impl_->engine->weights_bytes();
  if (impl_->device) impl_->device->add_memory(stats);
  if (impl_->current) {
    stats.arena_bytes = impl_->current->arena_bytes();
    stats.lower_bound_bytes = impl_->current->lower_bound_bytes();
    stats.shape_constant_bytes = impl_->current->shape_constant_bytes();
  }
  return stats;
}

const Engine& ExecutionContext::engine() const { return *impl_->engine; }

}  // namespace tokamak
