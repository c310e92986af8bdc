#include "backends/cuda/executor.h"

#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <utility>

#include "backends/cpu/thread_pool.h"

namespace tokamak {
namespace cuda {
namespace {

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of an engine's target, "sm_90".
int arch_of(const std::string& target) {
  int arch = 0;
  const char* const end = target.data() + target.size();
  if (!target.starts_with("sm_") || std::from_chars(target.data() + 3, end, arch).ptr != end || arch <= 0)
    fail(ErrorCode::Corrupt, "the engine is for the GPU \"{}\", expected an architecture such as sm_90; build the engine again", target);
  return arch;
}

std::shared_ptr<Device> device_for(const Engine& engine, int ordinal) {
  const int arch = arch_of(engine.info().target);
  if (!Device::is_available())
    fail(ErrorCode::Unsupported, "this engine was built for a GPU ({}), and CUDA cannot be used here: {}; build it with --device cpu",
         engine.info().target, driver_problem());
  auto device = Device::get(ordinal);
  const Target& target = device->target();
  if (target.arch / 10 != arch / 10)
    fail(ErrorCode::Unsupported, "this engine was built for {} ({}), {} is {}, of another family; build the engine again for it",
         engine.info().target, engine.info().device_name, target.device_name, target.name());
  device->make_current();
  return device;
}

void copy_to_pinned(std::byte* to, const void* from, int64_t bytes, ThreadPool& pool) {
  constexpr int64_t kPiece = 512 << 10;
  if (bytes <= 2 * kPiece) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return;
  }
  pool.parallel_for(bytes, kPiece, [&](int64_t begin, int64_t end, int) {
    std::memcpy(to + begin, static_cast<const std::byte*>(from) + begin, static_cast<size_t>(end - begin));
  });
}

int64_t aligned(int64_t bytes) { return (bytes + memory::kDeviceAlignment - 1) / memory::kDeviceAlignment * memory::kDeviceAlignment; }

// A name on the time line of a profiler that listens (Nsight Systems).
struct Range {
  explicit Range(const std::string& name) { nvtxRangePushA(name.c_str()); }
  ~Range() { nvtxRangePop(); }
};

}  // namespace

void Executor::Planned::drop_graph() {
  if (graph != nullptr) driver().cuGraphExecDestroy(graph);
  graph = nullptr;
}

Executor::Executor(std::shared_ptr<const Engine> engine, const ContextOptions& options, std::shared_ptr<ThreadPool> pool)
    : engine_(std::move(engine)),
      options_(options),
      pool_(std::move(pool)),
      device_(device_for(*engine_, options.device)),
      context_(device_->target(), engine_->code(), device_, engine_->info().precision == "tf32"),
      constants_(engine_->device_constants(options.device, [this] { return std::make_shared<DeviceConstants>(device_); })),
      stream_(device_) {
  if (device_->target().name() != engine_->info().target)
    warnings_.push_back(fmt::format("built for {} ({}), {} is {}: its kernels are compiled again, as they were chosen there",
                                    engine_->info().target, engine_->info().device_name, device_->target().device_name,
                                    device_->target().name()));
}

Executor::~Executor() {
  try {
    device_->make_current();
    stream_.synchronize();
  } catch (const Error&) {
    // An error that nobody asked for: the work is over either way.
  }
}

// --- plans and memory ---

bool Executor::matches(const DevicePlan& plan, std::span<const Tensor> inputs, std::span<const Place> places) const {
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].shape() != plan.input_shapes()[i] || places[i] != plan.input_places()[i]) return false;
  return true;
}

// Null when shapes depend on data.
std::unique_ptr<DevicePlan> Executor::plan_for(std::span<const Tensor> inputs, std::span<const Place> places) const {
  std::vector<Shape> shapes;
  for (const Tensor& t : inputs) shapes.push_back(t.shape());
  Binding binding = bind_shapes(engine_->graph(), shapes, pool_->width());
  if (!binding.is_static) return nullptr;
  return std::make_unique<DevicePlan>(engine_->graph(), std::move(binding), *pool_, context_,
                                      std::vector<Place>(places.begin(), places.end()), options_.output_place);
}

// Of a plan that nothing was done for; `of_graph`: the engine's constants that it reads.
DeviceNeeds Executor::needs(const DevicePlan& plan, std::vector<Tensor>& of_graph) const {
  DeviceNeeds needs;
  for (const DevicePlan::Constant& c : plan.constants()) {
    if (c.of_graph) of_graph.push_back(c.host);
    else needs.shape_constant_bytes += aligned(c.host.size_bytes());
  }
  needs.weights_bytes = constants_->missing_bytes(of_graph);
  const int64_t arena = std::max<int64_t>(plan.device_arena_bytes(), 1);
  if (arena > device_arena_.size_bytes()) needs.arena_bytes = arena;
  return needs;
}

DeviceNeeds Executor::needs(std::span<const Tensor> inputs, std::span<const Place> places) {
  device_->make_current();
  std::vector<Tensor> of_graph;
  const auto plan = plan_for(inputs, places);
  return plan ? needs(*plan, of_graph) : DeviceNeeds{};
}

bool Executor::prepare(std::span<const Tensor> inputs, std::span<const Place> places) {
  device_->make_current();
  if (current_ == nullptr || !matches(*current_->plan, inputs, places)) {
    current_ = nullptr;
    const auto found =
        std::find_if(plans_.begin(), plans_.end(), [&](const auto& planned) { return matches(*planned->plan, inputs, places); });
    if (found != plans_.end()) {
      std::rotate(plans_.begin(), found, found + 1);
    } else {
      auto planned = std::make_unique<Planned>();
      planned->plan = plan_for(inputs, places);
      if (!planned->plan) return false;
      make_room(*planned);
      if (plans_.size() == static_cast<size_t>(options_.max_plans)) {
        synchronize();  // it may still run
        if (ran_ == plans_.back().get()) ran_ = nullptr;
        plans_.pop_back();
      }
      plans_.insert(plans_.begin(), std::move(planned));
    }
    current_ = plans_.front().get();
  }
  make_room(*current_);
  if (current_->host_arena != host_arena_.data() || current_->device_arena != device_arena_.data()) {
    current_->drop_graph();
    current_->has_run = false;
    current_->host_arena = host_arena_.data();
    current_->device_arena = device_arena_.data();
    current_->plan->place(host_arena_.data(), device_arena_.data(), [this](size_t i) { return current_->constant_addresses[i]; });
  }
  if (ran_ != current_) ran_ = nullptr;  // the arenas now belong to another plan
  for (size_t i = 0; i < inputs.size(); ++i) current_->plan->set_input(static_cast<int>(i), inputs[i]);
  return true;
}

// Uploads the constants that the plan is the first to need and lets the arenas grow, after asking whether it all fits.
void Executor::make_room(Planned& planned) {
  const DevicePlan& plan = *planned.plan;
  const int64_t arena = std::max<int64_t>(plan.device_arena_bytes(), 1), host_arena = std::max<int64_t>(plan.host_arena_bytes(), 1);
  const bool has_constants = planned.constant_addresses.size() == plan.constants().size();
  if (has_constants && arena <= device_arena_.size_bytes() && host_arena <= host_arena_.size_bytes()) return;

  std::vector<Tensor> of_graph;
  const DeviceNeeds missing = needs(plan, of_graph);
  const int64_t limit = options_.memory_limit_bytes ? options_.memory_limit_bytes : engine_->info().workspace_limit_bytes;
  if (limit > 0 && arena > limit)
    fail(ErrorCode::ResourceExhausted,
         "these shapes need {} bytes of activations and workspace on the GPU, the limit is {}; a limit of {} "
         "would do",
         arena, limit, arena);
  const int64_t own_bytes = missing.shape_constant_bytes, own = has_constants ? 0 : own_bytes;
  const int64_t kept = missing.arena_bytes > 0 ? device_arena_.size_bytes() : 0;  // given back first
  if (const int64_t free = device_->free_bytes(); missing.weights_bytes + own + missing.arena_bytes > free + kept)
    fail(ErrorCode::ResourceExhausted,
         "{} does not have room for this engine: {} bytes of weights, {} of activations and workspace (largest workspace {}) and {} of "
         "values made for these shapes are missing, {} are free",
         device_->target().device_name, missing.weights_bytes, missing.arena_bytes, plan.largest_workspace_bytes(), own, free + kept);

  constants_->upload(of_graph, *pool_);
  if (!has_constants) {
    if (own_bytes > 0) planned.constants = device_->allocate(own_bytes, "values made for these shapes");
    std::byte* next = planned.constants.data();
    for (const DevicePlan::Constant& c : plan.constants()) {
      planned.constant_addresses.push_back(c.of_graph ? constants_->find(c.host) : next);
      if (c.of_graph) continue;
      check(driver().cuMemcpyHtoD(reinterpret_cast<CUdeviceptr>(next), c.host.raw(), static_cast<size_t>(c.host.size_bytes())),
            "uploading values made for these shapes");
      next += aligned(c.host.size_bytes());
    }
    check(driver().cuStreamSynchronize(nullptr), "uploading values made for these shapes");
  }
  if (arena > device_arena_.size_bytes() || host_arena > host_arena_.size_bytes()) {
    synchronize();
    // Graphs refer to the memory itself: one that was captured before must not be launched even if the new arena has the same address.
    for (const auto& other : plans_) {
      other->drop_graph();
      other->host_arena = other->device_arena = nullptr;
    }
  }
  if (arena > device_arena_.size_bytes()) {
    device_arena_ = Buffer();
    device_arena_ = device_->allocate(arena, "activations and workspace");
  }
  if (host_arena > host_arena_.size_bytes()) {
    host_arena_ = PinnedBuffer();
    host_arena_ = PinnedBuffer(host_arena);
  }
}

// --- running ---

void Executor::wait_for_copies() {
  if (copies_pending_) copied_.synchronize();
  copies_pending_ = false;
}

// Through pinned memory, piece by piece, so that the GPU fetches one while the host fills the next.
void Executor::upload_inputs(const DevicePlan& plan, std::span<const Tensor> inputs) {
  if (plan.staging_bytes() == 0) return;
  Staging& staging = staging_[next_staging_];
  next_staging_ = (next_staging_ + 1) % staging_.size();
  if (!staging.read) staging.read = std::make_unique<Event>(false);
  else staging.read->synchronize();
  if (staging.memory.size_bytes() < plan.staging_bytes()) {
    staging.memory = PinnedBuffer();
    staging.memory = PinnedBuffer(plan.staging_bytes());
  }
  constexpr int64_t kPiece = 8 << 20;
  size_t next = 0;
  const auto copies = plan.input_copies();
  for (const DevicePlan::StagedCopy& piece : plan.staged_copies()) {
    std::byte* const from = staging.memory.data() + piece.staging_offset;
    const auto send = [&](int64_t begin, int64_t bytes) {
      check(driver().cuMemcpyHtoDAsync(reinterpret_cast<CUdeviceptr>(piece.device + begin), from + begin, static_cast<size_t>(bytes),
                                       stream_.get()),
            "uploading inputs");
    };
    if (piece.size_bytes > kPiece) {  // one input
      const Tensor& input = inputs[copies[next++].input];
      for (int64_t begin = 0; begin < piece.size_bytes; begin += kPiece) {
        const int64_t bytes = std::min(kPiece, piece.size_bytes - begin);
        copy_to_pinned(from + begin, input.data<std::byte>() + begin, bytes, *pool_);
        send(begin, bytes);
      }
      continue;
    }
    for (; next < copies.size() && copies[next].staging_offset < piece.staging_offset + std::max<int64_t>(piece.size_bytes, 1); ++next)
      copy_to_pinned(staging.memory.data() + copies[next].staging_offset, inputs[copies[next].input].raw(), copies[next].size_bytes,
                     *pool_);
    if (piece.size_bytes > 0) send(0, piece.size_bytes);
  }
  staging.read->record(stream_.get());
}

void Executor::run_step(DevicePlan::Step& step) {
  const CUstream stream = stream_.get();
  if (step.kind == DevicePlan::StepKind::Kernel) {
    if (step.place == Place::Host) wait_for_copies();
    step.kernel->run({step.inputs, step.outputs, step.workspace, pool_.get(), stream});
    return;
  }
  const Tensor &from = step.inputs[0], &to = step.outputs[0];
  if (from.size_bytes() == 0) return;
  void* const target = const_cast<void*>(to.raw());
  if (step.kind == DevicePlan::StepKind::Upload)
    check(driver().cuMemcpyHtoDAsync(reinterpret_cast<CUdeviceptr>(target), from.raw(), static_cast<size_t>(from.size_bytes()), stream),
          step.name.c_str());
  else
    check(driver().cuMemcpyDtoHAsync(target, reinterpret_cast<CUdeviceptr>(from.raw()), static_cast<size_t>(from.size_bytes()), stream),
          step.name.c_str());
  copies_pending_ = true;
}

void Executor::run_steps(Planned& planned) {
  for (DevicePlan::Step& step : planned.plan->steps()) {
    run_step(step);
    if (step.kind != DevicePlan::StepKind::Kernel && !planned.plan->is_device_only()) copied_.record(stream_.get());
  }
}

void Executor::run_async(std::span<const Tensor> inputs, Profiler* profiler) {
  device_->make_current();
  if (timeline_.profiler) synchronize();
  Planned& planned = *current_;
  is_running_ = true;
  if (profiler) {
    stream_.synchronize();
    event(0).record(stream_.get());
    timeline_ = {profiler, &planned, now_ns(), 1, {}};
  }
  upload_inputs(*planned.plan, inputs);
  if (profiler) run_profiled(planned, profiler);
  else if (!replay(planned, inputs)) {
    run_steps(planned);
    if (options_.capture_first_run && options_.cuda_graphs && planned.plan->is_device_only() && planned.graph_problem.empty())
      capture(planned);
  }
  if (copies_pending_) copied_.record(stream_.get());
  ran_ = &planned;
}

void Executor::synchronize() {
  if (!is_running_) return;
  device_->make_current();
  is_running_ = false;
  copies_pending_ = false;
  stream_.synchronize();
  if (timeline_.profiler) report_times();
}

const Tensor& Executor::output(int index) {
  if (ran_ == nullptr) fail(ErrorCode::InvalidArgument, "output {} was asked for before run()", index);
  if (options_.output_place == Place::Host) synchronize();
  return ran_->plan->output(index);
}

// --- CUDA graphs ---

// Launches the plan's graph, captured first when the inputs on the GPU are where they were in the run before. False: run the steps.
bool Executor::replay(Planned& planned, std::span<const Tensor> inputs) {
  const DevicePlan& plan = *planned.plan;
  if (!options_.cuda_graphs || !plan.is_device_only() || !planned.graph_problem.empty()) return false;
  bool same = std::exchange(planned.has_run, true);
  for (size_t i = 0; i < inputs.size() && same; ++i)
    same = plan.input_places()[i] == Place::Host || planned.inputs_before[i] == inputs[i].raw();
  if (!same) {
    planned.drop_graph();
    planned.inputs_before.clear();
    for (const Tensor& t : inputs) planned.inputs_before.push_back(t.raw());
    return false;
  }
  if (planned.graph == nullptr) capture(planned);
  if (planned.graph == nullptr) return false;
  check(driver().cuGraphLaunch(planned.graph, stream_.get()), "launching the CUDA graph of a plan");
  copies_pending_ = plan.num_downloads() > 0;
  return true;
}

void Executor::capture(Planned& planned) {
  const Driver& d = driver();
  // Other threads may allocate meanwhile; this one does not.
  check(d.cuStreamBeginCapture(stream_.get(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "cuStreamBeginCapture");
  try {
    for (DevicePlan::Step& step : planned.plan->steps()) run_step(step);
  } catch (const Error& e) {
    planned.graph_problem = e.what();
  }
  CUgraph graph = nullptr;
  const CUresult ended = d.cuStreamEndCapture(stream_.get(), &graph);
  const std::shared_ptr<void> guard(nullptr, [&](void*) {
    if (graph != nullptr) d.cuGraphDestroy(graph);
  });
  try {
    if (planned.graph_problem.empty()) {
      check(ended, "cuStreamEndCapture");
      check(d.cuGraphInstantiate(&planned.graph, graph, 0), "cuGraphInstantiate");
      check(d.cuGraphUpload(planned.graph, stream_.get()), "cuGraphUpload");
    }
  } catch (const Error& e) {
    planned.graph_problem = e.what();
    planned.graph = nullptr;
  }
}

// --- times ---

Event& Executor::event(size_t index) {
  while (events_.size() <= index) events_.emplace_back(true);
  return events_[index];
}

// An event behind every step: a step's time is from the one before.
void Executor::run_profiled(Planned& planned, Profiler*) {
  event(timeline_.num_events++).record(stream_.get());  // behind the inputs
  for (DevicePlan::Step& step : planned.plan->steps()) {
    const Range range(step.name);
    const bool on_host = step.kind == DevicePlan::StepKind::Kernel && step.place == Place::Host;
    if (on_host) wait_for_copies();
    const int64_t start = now_ns();
    run_step(step);
    timeline_.host_ns.emplace_back(on_host ? start : 0, on_host ? now_ns() : 0);
    if (step.kind != DevicePlan::StepKind::Kernel) copied_.record(stream_.get());
    event(timeline_.num_events++).record(stream_.get());
  }
}

void Executor::report_times() {
  const Timeline timeline = std::exchange(timeline_, {});
  const auto at = [&](size_t e) { return timeline.start_ns + static_cast<int64_t>(events_[e].ms_since(events_[0]) * 1e6); };
  const DevicePlan& plan = *timeline.of->plan;
  if (plan.staging_bytes() > 0) timeline.profiler->on_copy("upload inputs", plan.staging_bytes(), at(0), at(1));
  size_t index = 0;
  for (DevicePlan::Step& step : timeline.of->plan->steps()) {
    const auto [host_start, host_end] = timeline.host_ns[index];
    const int64_t start = host_start ? host_start : at(index + 1), end = host_start ? host_end : at(index + 2);
    ++index;
    if (step.node) timeline.profiler->on_node(*step.node, start, end);
    else timeline.profiler->on_copy(step.name, step.inputs[0].size_bytes(), start, end);
  }
}

// --- what is known about it ---

void Executor::add_memory(MemoryStats& stats) const {
  for (const Staging& s : staging_) stats.staging_bytes += s.memory.size_bytes();
  if (current_ == nullptr) return;
  const DevicePlan& plan = *current_->plan;
  stats.arena_bytes = plan.device_arena_bytes();
  stats.host_arena_bytes = plan.host_arena_bytes();
  stats.lower_bound_bytes = plan.lower_bound_bytes();
  stats.shape_constant_bytes = plan.shape_constant_bytes();
}

std::vector<StepInfo> Executor::steps() const { return current_ ? current_->plan->step_infos() : std::vector<StepInfo>(); }

std::vector<std::string> Executor::fallbacks() const {
  std::vector<std::string> out = warnings_;
  if (current_ == nullptr) return out;
  const auto& of_plan = current_->plan->fallbacks();
  out.insert(out.end(), of_plan.begin(), of_plan.end());
  if (!current_->graph_problem.empty()) out.push_back("no CUDA graph: " + current_->graph_problem);
  return out;
}

Tensor Executor::to_host(const Tensor& tensor) {
  device_->make_current();
  stream_.synchronize();
  Tensor out = Tensor::empty(tensor.dtype(), tensor.shape());
  if (out.size_bytes() > 0)
    check(driver().cuMemcpyDtoH(out.raw(), reinterpret_cast<CUdeviceptr>(tensor.raw()), static_cast<size_t>(out.size_bytes())),
          "download of a tensor");
  return out;
}

Tensor Executor::empty(DType dtype, const Shape& shape) {
  auto buffer = std::make_shared<Buffer>(device_->allocate(bytes_of(dtype, num_elements(shape)), "a tensor"));
  return Tensor::view(dtype, shape, buffer->data(), buffer);
}

Tensor Executor::to_device(const Tensor& tensor) {
  device_->make_current();
  auto buffer = std::make_shared<Buffer>(device_->allocate(tensor.size_bytes(), "a tensor"));
  if (tensor.size_bytes() > 0)
    check(driver().cuMemcpyHtoD(buffer->pointer(), tensor.raw(), static_cast<size_t>(tensor.size_bytes())), "upload of a tensor");
  check(driver().cuStreamSynchronize(nullptr), "upload of a tensor");  // stream_ does not wait for this one
  return Tensor::packed_view(tensor.dtype(), tensor.shape(), tensor.layout(), buffer->data(), tensor.size_bytes(), buffer);
}

Tensor Executor::constant(const Tensor& tensor) {
  device_->make_current();
  constants_->upload({&tensor, 1}, *pool_);
  return Tensor::packed_view(tensor.dtype(), tensor.shape(), tensor.layout(), constants_->find(tensor), tensor.size_bytes(), nullptr);
}

}  // namespace cuda

std::unique_ptr<DeviceExecutor> make_device_executor(std::shared_ptr<const Engine> engine, const ContextOptions& options,
                                                     std::shared_ptr<ThreadPool> pool) {
  return std::make_unique<cuda::Executor>(std::move(engine), options, std::move(pool));
}

}  // namespace tokamak
