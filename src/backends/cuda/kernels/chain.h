#pragma once
// A kernel made of others: a private list of nodes that compute what one node does, run one after the other.

#include <memory>
#include <vector>

#include "backends/cuda/cuda_backend.h"
#include "ir/graph.h"

namespace tokamak::cuda {

// Built for one node of concrete shapes, which must outlive it: nodes are added to graph() in the order in which they run (views take no
// time), then make() gives the kernel. A node whose `kernel` and `tactic` are set takes that kernel; others the first of the backend's
// list that accepts. Constants are those of the outer node; kernels that pack theirs are not taken. Values between the nodes and their
// workspaces lie in the outer kernel's workspace, each at a multiple of 256 bytes, and share it where their times do not meet.
class Chain {
 public:
  explicit Chain(const NodeView& outer);
  Chain(Chain&&) = default;

  ir::Graph& graph() { return *graph_; }
  // Input i of the outer node as a value of the graph; null where it is absent.
  ir::Value* input(int i) const { return i < static_cast<int>(inputs_.size()) ? inputs_[i] : nullptr; }

  // The view of a node whose inputs are in the graph, for what a KernelDef says about it.
  NodeView view(const ir::Node& node) const;

  // Whether every node has a kernel; else the first node that has none and why.
  Support supports() const;

  // `outputs` are the outer node's, of the same type and size; each is the result of a node that is not a view, once. Throws Unsupported
  // where supports() says no. The kernel's run() makes small allocations on the host for the inner kernels' arguments.
  std::unique_ptr<Kernel> make(const std::vector<ir::Value*>& outputs) &&;

 private:
  const KernelDef* find(const NodeView& view, std::string& reasons) const;

  const NodeView& outer_;
  std::unique_ptr<ir::Graph> graph_;
  std::vector<ir::Value*> inputs_;
};

}  // namespace tokamak::cuda
