#pragma once
// What an ExecutionContext hands its work to when its engine is for a GPU. Implemented by cuda::Executor, so that the runtime builds
// without the CUDA toolkit.

#include <memory>
#include <span>

#include "runtime/execution_context.h"

namespace tokamak {

class DeviceExecutor {
 public:
  virtual ~DeviceExecutor() = default;

  // Plans for the inputs' shapes and places and makes room on the GPU; false when the graph's shapes depend on data or it has control flow.
  // Throws ResourceExhausted before anything is allocated when the GPU's free memory is too small.
  virtual bool prepare(std::span<const Tensor> inputs, std::span<const Place> places) = 0;
  // What prepare() would allocate, without doing so; nothing for a graph that runs node by node.
  virtual DeviceNeeds needs(std::span<const Tensor> inputs, std::span<const Place> places) = 0;
  // Queues one run of what was prepared.
  virtual void run_async(std::span<const Tensor> inputs, Profiler* profiler) = 0;
  virtual void synchronize() = 0;
  // Of the last run_async().
  virtual const Tensor& output(int index) = 0;

  virtual CUstream_st* stream() const = 0;
  virtual void add_memory(MemoryStats& stats) const = 0;
  virtual std::vector<StepInfo> steps() const = 0;
  virtual std::vector<std::string> fallbacks() const = 0;

  // For graphs that run node by node: what their kernels are made with, and tensors brought to the other side (both wait).
  virtual const cuda::Context& context() const = 0;
  virtual Tensor empty(DType dtype, const Shape& shape) = 0;  // on the GPU
  virtual Tensor to_host(const Tensor& tensor) = 0;
  virtual Tensor to_device(const Tensor& tensor) = 0;
  virtual Tensor constant(const Tensor& tensor) = 0;  // uploaded once; one of the engine's
};

// Throws Unsupported: no GPU, another family of GPUs than the engine was built for, or a build without the CUDA backend.
std::unique_ptr<DeviceExecutor> make_device_executor(std::shared_ptr<const Engine> engine, const ContextOptions& options,
                                                     std::shared_ptr<ThreadPool> pool);

}  // namespace tokamak
