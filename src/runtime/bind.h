#pragma once
// Shapes made concrete: the ops' own inference, run over a graph with the input shapes known.

#include <unordered_map>

#include "ir/op.h"
#include "runtime/kernel.h"

namespace tokamak {

// What is known about one value once the inputs' shapes are.
struct BoundValue {
  ir::ValueInfo info;  // type (constant dims unless data-dependent), known integers, known contents
  bool is_static() const { return info.type.is_static(); }
};

struct Binding {
  std::unordered_map<const ir::Value*, BoundValue> values;
  ir::Dim::Bindings symbols;
  bool is_static = true;  // every shape is known and there is no control flow: the graph can be planned

  const BoundValue& at(const ir::Value* value) const { return values.at(value); }
};

// Matches concrete shapes against the graph's symbolic inputs and infers everything else. `evaluate` computes nodes whose inputs are all
// known (position ids, masks, rotary tables) with the kernels of the CPU, once; results above `max_evaluated_bytes` stay ordinary nodes.
// Throws InvalidArgument or OutOfRange naming the input or node that does not fit.
Binding bind_shapes(const ir::Graph& graph, const std::vector<Shape>& input_shapes, int num_threads,
                    int64_t max_evaluated_bytes = int64_t{64} << 20);

// Binds the symbols of one input's type to a shape. Throws InvalidArgument on rank, OutOfRange on a dim that contradicts.
void bind_symbols(const std::string& name, const ir::TensorType& type, const Shape& shape, ir::Dim::Bindings& symbols);

// The concrete view of one node. All its inputs and outputs must be bound to static types. `cuda` is given for engines for a GPU and must
// outlive the view.
NodeView make_view(const ir::Node& node, const Binding& binding, int num_threads, const cuda::Context* cuda = nullptr);
// The same from actual tensors, for node-by-node execution; outputs are inferred. Output shapes that only the kernel can tell are empty and
// `dynamic[i]` is true.
NodeView make_view(const ir::Node& node, std::span<const Tensor> inputs, const ir::Dim::Bindings& symbols, int num_threads,
                   std::vector<bool>& dynamic, const cuda::Context* cuda = nullptr);

// A kernel made for concrete shapes, with the constants it wants in place of the node's.
struct ReadyKernel {
  std::unique_ptr<Kernel> kernel;
  std::vector<Tensor> packed;   // per input, on the host; undefined where the node's own tensor is right
  std::string fallback_reason;  // why the node's own kernel was not taken, empty when it was or when none was chosen yet
  std::string_view name;        // of the kernel's KernelDef; empty where there is nothing to compute
  Place place = Place::Host;    // where it runs
  std::string host_reason;      // with a GPU: why no kernel of the GPU takes the node; empty when one does
};
// Makes the node's chosen kernel if it accepts these shapes, else the first of the op's list that does (packing its weights, which a tuned
// node already has). With `view.cuda` the GPU's kernels come first and the CPU's after them; without, a choice among the GPU's kernels is
// passed over (values computed once on the host). Throws Unsupported with every kernel's reason.
ReadyKernel make_kernel(NodeView view);
// Whether the kernel that make_kernel() takes can write output 0 with another pitch. False when none accepts.
bool can_pitch_output(const NodeView& view);

}  // namespace tokamak
