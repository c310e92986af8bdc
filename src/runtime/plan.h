#pragma once
// A graph ready to run for one set of input shapes: kernels made, values placed in an arena, shape-only values computed.

#include <memory>
#include <vector>

#include "memory/planner.h"
#include "runtime/bind.h"

namespace tokamak {

class Profiler;
struct StepInfo;

class Plan {
 public:
  // `binding` must be static; the graph must outlive the plan. Throws Unsupported when a node has no kernel.
  Plan(const ir::Graph& graph, Binding binding, int num_threads);

  const std::vector<Shape>& input_shapes() const { return input_shapes_; }
  int64_t arena_bytes() const { return layout_.arena_bytes; }
  int64_t lower_bound_bytes() const { return layout_.lower_bound_bytes; }
  int64_t shape_constant_bytes() const { return shape_constant_bytes_; }
  int num_steps() const { return static_cast<int>(steps_.size()); }
  // Nodes whose chosen kernel declined these shapes, with the reason; empty when all went as tuned.
  const std::vector<std::string>& fallbacks() const { return fallbacks_; }
  std::vector<StepInfo> step_infos() const;

  // Points every tensor into an arena of at least arena_bytes(); again whenever the arena moves.
  void place(std::byte* arena);
  const std::byte* placed_at() const { return arena_; }

  void set_input(int index, const Tensor& tensor);
  const Tensor& output(int index) const { return outputs_[index]; }
  void run(ThreadPool& pool, Profiler* profiler);

 private:
  struct Step {
    const ir::Node* node;
    std::string_view kernel_name;
    std::unique_ptr<Kernel> kernel;
    std::vector<Tensor> inputs, outputs;
    std::vector<int> input_slots, output_slots;  // index into slots_, -1 absent or constant
    int workspace_lifetime = -1;
    void* workspace = nullptr;
  };
  // Where a value lives: a graph input, a constant, or a lifetime of the arena. Views share their source's slot.
  struct Slot {
    int lifetime = -1;
    int64_t offset_bytes = 0;  // in the lifetime: where a concat's input lies in its output
    int graph_input = -1;
    Tensor constant;
  };

  // A concat's input that its producer writes straight into the concat's output.
  struct Part {
    const ir::Value* whole;
    int64_t offset, pitch;  // elements: of the first row, from row to row
  };

  int slot_of(const ir::Value* value);
  bool is_known(const ir::Node& node) const;
  void join_concats(const ir::Graph& graph, int num_threads);
  Tensor tensor_at(int slot, DType dtype, const Shape& shape) const;
  void build_steps(const ir::Graph& graph, int num_threads);
  void plan_memory(const ir::Graph& graph);

  const ir::Graph& graph_;
  Binding binding_;
  std::vector<Shape> input_shapes_;
  std::vector<Step> steps_;
  std::vector<Slot> slots_;
  std::unordered_map<const ir::Value*, int> slot_index_;
  std::unordered_map<const ir::Value*, Part> parts_;
  memory::Layout layout_;
  std::vector<Tensor> outputs_;
  std::vector<int> output_slots_;
  // Tensors to refresh when a graph input is set.
  std::vector<std::vector<Tensor*>> input_refs_;
  std::vector<std::string> fallbacks_;
  int64_t shape_constant_bytes_ = 0;
  std::byte* arena_ = nullptr;
};

}  // namespace tokamak
