#pragma once
// A graph ready to run on a GPU for one set of input shapes and places: kernels made, values placed in two arenas (the GPU's, and pinned
// memory of the host), copies put in where a step needs a value from the other side. Knows no driver: cuda::Executor runs it.

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "memory/planner.h"
#include "runtime/bind.h"
#include "runtime/execution_context.h"
#include "runtime/step_memory.h"

namespace tokamak {

class DevicePlan {
 public:
  enum class StepKind { Kernel, Upload, Download };
  struct Step {
    StepKind kind = StepKind::Kernel;
    Place place = Place::Device;     // where the kernel runs
    const ir::Node* node = nullptr;  // null: a copy
    std::string name;                // the node's label, or "upload %x", "download %y"
    std::string kernel_name;
    std::unique_ptr<Kernel> kernel;
    std::vector<Tensor> inputs, outputs;  // of a copy: from, to
    std::vector<int> input_slots, output_slots;
    int workspace_lifetime = -1;
    void* workspace = nullptr;
  };
  // An input given on the host that steps of the GPU read: copied there before the first step.
  struct InputCopy {
    int input = 0;
    int64_t size_bytes = 0;
    int64_t staging_offset = 0;  // in pinned memory
  };
  // Bytes of pinned memory that move in one piece: small inputs lie side by side on both sides.
  struct StagedCopy {
    int64_t staging_offset = 0, size_bytes = 0;
    std::byte* device = nullptr;
  };
  // A constant that steps of the GPU read.
  struct Constant {
    Tensor host;
    bool of_graph = false;  // the same for every plan; else made for these shapes
  };

  // `binding` must be static; graph and `cuda` must outlive the plan. `input_places`: where each input's tensor will be. Throws Unsupported
  // when a node has no kernel, or writes an input in place that is on the other side. Kernels are made by all of `pool`: those whose code
  // the engine does not carry are compiled.
  DevicePlan(const ir::Graph& graph, Binding binding, ThreadPool& pool, const cuda::Context& cuda, std::vector<Place> input_places,
             Place output_place);

  const std::vector<Shape>& input_shapes() const { return input_shapes_; }
  const std::vector<Place>& input_places() const { return input_places_; }
  int64_t device_arena_bytes() const { return device_layout_.arena_bytes; }
  int64_t host_arena_bytes() const { return host_layout_.arena_bytes; }
  int64_t staging_bytes() const { return staging_bytes_; }
  int64_t lower_bound_bytes() const { return device_layout_.lower_bound_bytes; }
  int64_t largest_workspace_bytes() const { return largest_workspace_bytes_; }
  int64_t shape_constant_bytes() const { return shape_constant_bytes_; }
  // No step runs on the host: the steps can be captured in a CUDA graph.
  bool is_device_only() const { return num_host_steps_ == 0; }
  int num_copies() const;  // input copies included
  int num_downloads() const;
  const std::vector<std::string>& fallbacks() const { return fallbacks_; }
  std::vector<StepInfo> step_infos() const;

  const std::vector<Constant>& constants() const { return constants_; }

  // Points every tensor into the arenas (alignment: memory::kAlignment, kDeviceAlignment); again whenever one moves. `constant` gives the
  // address on the GPU of constants()[i].
  void place(std::byte* host_arena, std::byte* device_arena, const std::function<std::byte*(size_t)>& constant);

  // The tensor of input `index`, at its place. Inputs on the host that are only uploaded are not referred to afterwards.
  void set_input(int index, const Tensor& tensor);
  const Tensor& output(int index) const { return outputs_[index]; }

  std::span<const InputCopy> input_copies() const { return input_copies_; }
  std::span<const StagedCopy> staged_copies() const { return staged_copies_; }
  std::span<Step> steps() { return steps_; }

 private:
  // A value (views share their source's).
  struct Slot {
    const ir::Value* value = nullptr;
    Tensor constant;          // on the host
    int constant_index = -1;  // in constants_, when the GPU reads it
    bool constant_of_graph = false;
    int graph_input = -1;
    bool is_written = false;         // by an operator that writes its input in place
    bool is_at[2] = {false, false};  // by Place: made there, or copied there by now
    int lifetime[2] = {-1, -1};
    int64_t offset = 0;  // within the lifetime on the GPU: small inputs share one
  };

  int slot_of(const ir::Value* value);
  int constant_slot(Tensor constant);
  void need(int slot, Place place, const ir::Node* who);
  const ir::TensorType& type_of(const ir::Value* value) const { return binding_.at(value).info.type; }
  bool is_known(const ir::Node& node) const;
  std::unordered_map<const ir::Node*, ReadyKernel> make_kernels(ThreadPool& pool, const cuda::Context& cuda) const;
  void build_steps(std::unordered_map<const ir::Node*, ReadyKernel> kernels);
  void plan_input_copies(ArenaUse& use);
  void plan_memory();
  Tensor tensor_at(int slot, Place place, DType dtype, const Shape& shape) const;

  const ir::Graph& graph_;
  Binding binding_;
  std::vector<Shape> input_shapes_;
  std::vector<Place> input_places_;
  Place output_place_;
  std::vector<Step> steps_;
  std::vector<Slot> slots_;
  std::unordered_map<const ir::Value*, int> slot_index_;
  std::vector<Constant> constants_;
  std::vector<std::byte*> constant_addresses_;
  memory::Layout host_layout_, device_layout_;
  std::vector<InputCopy> input_copies_;
  std::vector<StagedCopy> staged_copies_;
  std::vector<int> staged_lifetimes_;  // of staged_copies_, in the GPU's arena
  std::vector<Tensor> outputs_;
  std::vector<int> output_slots_;
  std::vector<std::vector<Tensor*>> input_refs_;  // tensors to refresh when a graph input is set
  std::vector<std::string> fallbacks_;
  int num_host_steps_ = 0;
  int64_t staging_bytes_ = 0, largest_workspace_bytes_ = 0, shape_constant_bytes_ = 0;
  std::byte *host_arena_ = nullptr, *device_arena_ = nullptr;
};

}  // namespace tokamak
