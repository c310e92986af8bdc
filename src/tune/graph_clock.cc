#include "tune/graph_clock.h"

#ifdef TOKAMAK_CUDA

#include <algorithm>
#include <unordered_map>

#include "backends/cpu/thread_pool.h"
#include "backends/cuda/device_constants.h"
#include "runtime/device_plan.h"
#include "tune/replay.h"

namespace tokamak::tune {

struct DeviceGraphClocks::State {
  const ir::Graph& graph;
  ThreadPool& pool;
  const cuda::Context& cuda;
  cuda::DeviceConstants constants;
};

namespace {

int64_t aligned(int64_t bytes) { return (bytes + memory::kDeviceAlignment - 1) / memory::kDeviceAlignment * memory::kDeviceAlignment; }

void upload(CUdeviceptr to, const Tensor& from) {
  if (from.size_bytes() > 0)
    cuda::check(cuda::driver().cuMemcpyHtoD(to, from.raw(), static_cast<size_t>(from.size_bytes())), "uploading what a graph reads");
}

class DeviceGraphClock final : public GraphClock {
 public:
  DeviceGraphClock(const ir::Graph& graph, const Binding& binding, ThreadPool& pool, const cuda::Context& cuda,
                   std::unique_ptr<DevicePlan> plan)
      : graph_(graph),
        binding_(binding),
        pool_(pool),
        cuda_(cuda),
        stream_(cuda.device()),
        plan_(std::move(plan)),
        steps_(plan_->steps().size()) {
    for (size_t s = 0; s < steps_.size(); ++s) {
      const DevicePlan::Step& step = plan_->steps()[s];
      steps_[s] = {step.node->kernel, step.node->tactic, step.kernel->workspace_bytes(), {}};
      step_of_.emplace(step.node, s);
    }
  }

  // Memory, inputs and constants, all of which must fit.
  void place(const std::vector<Tensor>& inputs, const cuda::DeviceConstants& constants, int64_t shared_bytes) {
    const auto allocate = [&](int64_t bytes) {
      return buffers_.emplace_back(cuda_.device()->allocate(std::max<int64_t>(bytes, 1), "timing a graph")).pointer();
    };
    std::vector<std::byte*> addresses;
    for (const DevicePlan::Constant& c : plan_->constants()) {
      if (c.of_graph) {
        addresses.push_back(constants.find(c.host));
      } else {
        const CUdeviceptr to = allocate(c.host.size_bytes());
        upload(to, c.host);
        addresses.push_back(reinterpret_cast<std::byte*>(to));
      }
    }
    plan_->place(nullptr, reinterpret_cast<std::byte*>(allocate(plan_->device_arena_bytes())), [&](size_t i) { return addresses[i]; });
    struct Shared {
      CUdeviceptr at;
      int64_t bytes;
    };
    std::vector<Shared> shared;  // of the first undefined inputs, taken in turn by the rest that fit
    int64_t bytes_shared = 0;
    size_t turn = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const ir::TensorType& type = binding_.at(graph_.inputs()[i]).info.type;
      const Shape shape = type.static_shape();
      CUdeviceptr at;
      if (inputs[i].defined()) {
        at = allocate(inputs[i].size_bytes());
        upload(at, inputs[i]);
      } else if (const int64_t bytes = bytes_of(type.dtype, num_elements(shape));
                 bytes_shared < shared_bytes || shared[turn % shared.size()].bytes < bytes) {
        at = allocate(bytes);
        fill(at, bytes, type.dtype);
        shared.push_back({at, bytes});
        bytes_shared += bytes;
      } else {
        at = shared[turn++ % shared.size()].at;
      }
      plan_->set_input(static_cast<int>(i), Tensor::view(type.dtype, shape, reinterpret_cast<void*>(at)));
    }
    cuda::check(cuda::driver().cuStreamSynchronize(nullptr), "uploading what a graph reads");
  }

  std::optional<double> us(std::span<const PlacedChoice> nodes) override {
    for (const PlacedChoice& p : nodes)
      if (const auto found = step_of_.find(p.node); found != step_of_.end() && !put(found->second, *p.node, p.choice->candidate()))
        return {};
    constexpr int kRounds = 5;
    constexpr double kRoundUs = 15e3;
    const std::lock_guard alone(cuda_.device()->timing_mutex());
    const auto queue = [&] {
      for (const DevicePlan::Step& step : plan_->steps())
        step.kernel->run({step.inputs, const_cast<std::vector<Tensor>&>(step.outputs), step.workspace, &pool_, stream_.get()});
    };
    queue();  // loads the code
    stream_.synchronize();
    const Replay replay(stream_.get(), queue);
    replay.launch(stream_.get());
    const double once = device_us(stream_.get(), [&] { replay.launch(stream_.get()); });
    const int launches = std::clamp(static_cast<int>(kRoundUs / std::max(once, 1.0)), 1, 64);
    std::vector<double> times;
    for (int round = 0; round < kRounds; ++round)
      times.push_back(device_us(stream_.get(),
                                [&] {
                                  for (int i = 0; i < launches; ++i) replay.launch(stream_.get());
                                }) /
                      launches);
    std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
    return times[kRounds / 2];
  }

 private:
  struct Installed {
    std::string kernel, tactic;
    int64_t planned_workspace_bytes = 0;
    cuda::Buffer workspace;  // where what was planned is too small
  };

  // False: it does not write where the planned one may, or there is no room for its workspace.
  bool put(size_t index, const ir::Node& node, const Candidate& candidate) {
    Installed& now = steps_[index];
    if (now.kernel == candidate.def->name() && now.tactic == candidate.tactic) return true;
    DevicePlan::Step& step = plan_->steps()[index];
    std::unique_ptr<Kernel> kernel = candidate.def->make(make_view(node, binding_, pool_.width(), &cuda_), candidate.tactic);
    for (size_t o = 0; o < step.outputs.size(); ++o)
      for (size_t i = 0; i < step.inputs.size(); ++i)
        if (step.inputs[i].defined() && step.inputs[i].raw() == step.outputs[o].raw() &&
            !kernel->can_alias(static_cast<int>(o), static_cast<int>(i)))
          return false;
    if (const int64_t bytes = kernel->workspace_bytes(); bytes > std::max(now.planned_workspace_bytes, now.workspace.size_bytes())) {
      try {
        now.workspace = cuda_.device()->allocate(bytes, "timing a graph");
      } catch (const Error& e) {
        if (e.code() != ErrorCode::ResourceExhausted) throw;
        return false;
      }
      step.workspace = now.workspace.data();
    }
    step.kernel = std::move(kernel);
    now.kernel = candidate.def->name();
    now.tactic = candidate.tactic;
    return true;
  }

  static void fill(CUdeviceptr at, int64_t bytes, DType dtype) {
    constexpr int64_t kPiece = 4 << 20;
    const Tensor piece = timing_tensor(dtype, {std::min(bytes, kPiece) * 8 / bits_of(dtype)});
    upload(at, piece);
    for (int64_t done = kPiece; done < bytes; done += kPiece)
      cuda::check(cuda::driver().cuMemcpyDtoDAsync(at + static_cast<CUdeviceptr>(done), at,
                                                   static_cast<size_t>(std::min(kPiece, bytes - done)), nullptr),
                  "filling what a graph reads");
  }

  const ir::Graph& graph_;
  const Binding& binding_;
  ThreadPool& pool_;
  const cuda::Context& cuda_;
  cuda::Stream stream_;
  std::unique_ptr<DevicePlan> plan_;
  std::vector<Installed> steps_;
  std::unordered_map<const ir::Node*, size_t> step_of_;
  std::vector<cuda::Buffer> buffers_;
};

}  // namespace

DeviceGraphClocks::DeviceGraphClocks(const ir::Graph& graph, ThreadPool& pool, const cuda::Context& cuda)
    : state_(new State{graph, pool, cuda, cuda::DeviceConstants(cuda.device())}) {}
DeviceGraphClocks::~DeviceGraphClocks() = default;

std::unique_ptr<GraphClock> DeviceGraphClocks::make(const Binding& binding, const std::vector<Tensor>& inputs, std::string& why_not) {
  auto& [graph, pool, cuda, constants] = *state_;
  auto plan = std::make_unique<DevicePlan>(graph, binding, pool, cuda, std::vector<Place>(inputs.size(), Place::Device), Place::Device);
  if (!plan->is_device_only() || plan->num_copies() > 0) {
    why_not = "not all of it runs on the GPU";
    return nullptr;
  }
  const int64_t shared_bytes = 8 * cuda.target().l2_bytes;
  int64_t largest_input = 0;
  for (const ir::Value* v : graph.inputs()) {
    const ir::TensorType& type = binding.at(v).info.type;
    largest_input = std::max(largest_input, bytes_of(type.dtype, num_elements(type.static_shape())));
  }
  std::vector<Tensor> of_graph;
  int64_t needed = plan->device_arena_bytes() + shared_bytes + 2 * largest_input;
  for (const DevicePlan::Constant& c : plan->constants()) {
    if (c.of_graph) of_graph.push_back(c.host);
    else needed += aligned(c.host.size_bytes());
  }
  needed += constants.missing_bytes(of_graph);
  if (const int64_t free = cuda.device()->free_bytes(); needed > free / 10 * 9) {
    why_not = fmt::format("it needs {} MiB, {} are free", needed >> 20, free >> 20);
    return nullptr;
  }
  constants.upload(of_graph, pool);
  auto clock = std::make_unique<DeviceGraphClock>(graph, binding, pool, cuda, std::move(plan));
  clock->place(inputs, constants, shared_bytes);
  return clock;
}

}  // namespace tokamak::tune

#endif
