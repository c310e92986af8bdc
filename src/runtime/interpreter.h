#pragma once
// Runs a graph node by node, inferring each shape from the actual tensors: for data-dependent shapes and control flow.

#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "runtime/bind.h"

namespace tokamak {

class DeviceExecutor;
class Profiler;

// Belongs to one context. Keeps the last kernel of each node, so that a loop body whose shapes repeat makes its kernels once.
class Interpreter {
 public:
  // `device` is given for engines for a GPU and outlives this: nodes whose chosen kernel is the GPU's then run there, between copies; all
  // others run on the host.
  Interpreter(int num_threads, ThreadPool& pool, DeviceExecutor* device = nullptr)
      : num_threads_(num_threads), pool_(pool), device_(device) {}

  int num_device_kernels() const;  // of those made so far

  // `inputs` in the graph's order. Throws Error naming the node that fails.
  std::vector<Tensor> run(const ir::Graph& graph, std::span<const Tensor> inputs, const ir::Dim::Bindings& symbols, Profiler* profiler);

  // Shown every node's outputs as they are made, of subgraphs too.
  using Observer = std::function<void(const ir::Node& node, std::span<const Tensor> outputs)>;
  void set_observer(Observer observer) { observer_ = std::move(observer); }

 private:
  // Values of the graph being run and of the graphs around it.
  struct Frame {
    const Frame* outer = nullptr;
    std::unordered_map<const ir::Value*, Tensor> values;
    Tensor find(const ir::Value* value) const;
  };
  struct Cached {
    std::vector<DType> dtypes;
    std::vector<Shape> shapes, output_shapes;
    std::vector<DType> output_dtypes;
    std::vector<bool> dynamic;
    std::unique_ptr<Kernel> kernel;
    Place place = Place::Host;
    std::vector<Tensor> packed;  // weights in the kernel's own layout, per input
  };

  std::vector<Tensor> run_graph(const ir::Graph& graph, std::span<const Tensor> inputs, const Frame* outer);
  void run_node(const ir::Node& node, Frame& frame);
  std::vector<Tensor> run_kernel(const ir::Node& node, std::span<const Tensor> inputs);
  std::vector<Tensor> run_on_device(const ir::Node& node, const Cached& cached, std::span<const Tensor> inputs);
  std::vector<Tensor> run_if(const ir::Node& node, std::span<const Tensor> inputs, const Frame& frame);
  std::vector<Tensor> run_loop(const ir::Node& node, std::span<const Tensor> inputs, const Frame& frame);
  std::vector<Tensor> run_scan(const ir::Node& node, std::span<const Tensor> inputs, const Frame& frame);

  int num_threads_;
  ThreadPool& pool_;
  DeviceExecutor* device_;
  ir::Dim::Bindings symbols_;
  Profiler* profiler_ = nullptr;
  Observer observer_;
  std::unordered_map<const ir::Node*, Cached> cache_;
  std::vector<std::byte> workspace_;
};

}  // namespace tokamak
