#pragma once
// Runs device plans on a GPU: memory, transfers, launches or CUDA graphs, times per step.

#include <array>
#include <deque>

#include "backends/cuda/device.h"
#include "backends/cuda/device_constants.h"
#include "runtime/device_executor.h"
#include "runtime/device_plan.h"

namespace tokamak::cuda {

// Belongs to one ExecutionContext, with a stream of its own.
class Executor final : public DeviceExecutor {
 public:
  Executor(std::shared_ptr<const Engine> engine, const ContextOptions& options, std::shared_ptr<ThreadPool> pool);
  ~Executor() override;

  bool prepare(std::span<const Tensor> inputs, std::span<const Place> places) override;
  DeviceNeeds needs(std::span<const Tensor> inputs, std::span<const Place> places) override;
  void run_async(std::span<const Tensor> inputs, Profiler* profiler) override;
  void synchronize() override;
  const Tensor& output(int index) override;
  CUstream_st* stream() const override { return stream_.get(); }
  void add_memory(MemoryStats& stats) const override;
  std::vector<StepInfo> steps() const override;
  std::vector<std::string> fallbacks() const override;
  const Context& context() const override { return context_; }
  Tensor empty(DType dtype, const Shape& shape) override;
  Tensor to_host(const Tensor& tensor) override;
  Tensor to_device(const Tensor& tensor) override;
  Tensor constant(const Tensor& tensor) override;

 private:
  // A plan with what it has on the GPU.
  struct Planned {
    std::unique_ptr<DevicePlan> plan;
    Buffer constants;  // made for its shapes
    std::vector<std::byte*> constant_addresses;
    std::byte *host_arena = nullptr, *device_arena = nullptr;  // where it was placed
    CUgraphExec graph = nullptr;
    bool has_run = false;                    // once, there
    std::vector<const void*> inputs_before;  // the inputs' addresses on the GPU in the last run; a graph is good for these
    std::string graph_problem;               // why it is not captured
    ~Planned() { drop_graph(); }
    void drop_graph();
  };
  // Pinned memory that inputs pass through. Two, so that the host may fill one while the GPU reads the other.
  struct Staging {
    PinnedBuffer memory;
    std::unique_ptr<Event> read;  // by the GPU
  };
  // Times of a run that synchronize() will report.
  struct Timeline {
    Profiler* profiler = nullptr;
    Planned* of = nullptr;
    int64_t start_ns = 0;  // when events[0] happened
    size_t num_events = 0;
    std::vector<std::pair<int64_t, int64_t>> host_ns;  // by step; 0: on the GPU
  };

  bool matches(const DevicePlan& plan, std::span<const Tensor> inputs, std::span<const Place> places) const;
  std::unique_ptr<DevicePlan> plan_for(std::span<const Tensor> inputs, std::span<const Place> places) const;
  DeviceNeeds needs(const DevicePlan& plan, std::vector<Tensor>& of_graph) const;
  void make_room(Planned& planned);
  void upload_inputs(const DevicePlan& plan, std::span<const Tensor> inputs);
  void run_step(DevicePlan::Step& step);
  void run_steps(Planned& planned);
  void run_profiled(Planned& planned, Profiler* profiler);
  bool replay(Planned& planned, std::span<const Tensor> inputs);
  void capture(Planned& planned);
  void wait_for_copies();
  Event& event(size_t index);
  void report_times();

  std::shared_ptr<const Engine> engine_;
  ContextOptions options_;
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<Device> device_;
  Context context_;
  std::shared_ptr<DeviceConstants> constants_;
  Stream stream_;
  Event copied_{false};          // the last copy that reads or writes the host's arena
  bool copies_pending_ = false;  // and nobody has waited for it
  bool is_running_ = false;      // something was queued since the last synchronize()
  PinnedBuffer host_arena_;
  Buffer device_arena_;
  std::array<Staging, 2> staging_;
  size_t next_staging_ = 0;
  std::vector<std::unique_ptr<Planned>> plans_;  // most recently used first
  Planned *current_ = nullptr, *ran_ = nullptr;
  std::vector<std::string> warnings_;
  std::deque<Event> events_;
  Timeline timeline_;
};

}  // namespace tokamak::cuda
