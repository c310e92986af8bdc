#pragma once
// Convolutions in cuDNN's graph API: the operation graph of one with what follows it, the engines that the library names for a graph, and
// plans. Everything here is called under the handle's mutex.

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/cudnn.h"
#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/conv_shape.h"
#include "backends/cuda/kernels/epilogue.h"

namespace tokamak::cuda {

// One operation of a chain that starts at the convolution's result.
struct PointwiseStep {
  cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
  int input = -1;  // of the node, the second operand; -1: none
};

// Bias and epilogue as a chain; nothing when they are not one.
std::optional<std::vector<PointwiseStep>> pointwise_chain(const NodeView& node);

// The operation graph of a convolution with a chain behind it. Ids of tensors: inputs of the node by index, then kOutput.
class ConvGraph {
 public:
  static constexpr int64_t kOutput = 1000;

  // A plan of a graph that `varies` may share its kernel with plans for other sizes. Throws when cuDNN does not take it.
  ConvGraph(cudnnHandle_t handle, const NodeView& node, const ConvShape& s, const std::vector<PointwiseStep>& chain, bool packed,
            bool varies = false);

  // Null where the constructor throws.
  template <class... Args>
  static std::shared_ptr<const ConvGraph> make(const Args&... args) {
    try {
      return std::make_shared<const ConvGraph>(args...);
    } catch (const Error&) {
      return nullptr;
    }
  }

  const CudnnDescriptor& get() const { return graph_; }
  const std::vector<int64_t>& ids() const { return ids_; }  // that memory is given for

 private:
  const CudnnDescriptor& tensor(int64_t id, cudnnDataType_t type, const std::vector<int64_t>& dims, const std::vector<int64_t>& strides,
                                bool is_virtual = false);

  int64_t next_virtual_ = kOutput + 1;
  std::vector<int64_t> ids_;
  std::map<int64_t, const CudnnDescriptor*> tensors_;  // by id, in parts_
  std::deque<CudnnDescriptor> parts_;
  std::vector<CudnnDescriptor> operations_;
  CudnnDescriptor graph_;
};

// An engine and its knobs: what a tactic holds. "fused,91900,engine=38,2=1,6=0".
struct ConvChoice {
  bool fused = false;
  int64_t version = 0, engine = 0;
  std::vector<std::pair<int64_t, int64_t>> knobs;

  std::string tactic() const;
  static ConvChoice parse(const std::string& text);  // throws Corrupt
};

// Kernels that cuDNN compiled for plans of graphs of one kind that vary; null: none are kept.
using KernelCache = std::shared_ptr<const CudnnDescriptor>;
KernelCache make_kernel_cache(const ConvGraph& graph);

struct ConvPlan {
  std::shared_ptr<const ConvGraph> graph;
  KernelCache kernels;
  CudnnDescriptor plan;
  int64_t workspace_bytes;
};

// Null when cuDNN does not support the engine for this graph, or its workspace is too large.
std::shared_ptr<const ConvPlan> plan_conv(cudnnHandle_t handle, const std::shared_ptr<const ConvGraph>& graph, const ConvChoice& choice,
                                          const KernelCache& kernels = nullptr);

struct PlannedConv {
  ConvChoice choice;
  std::shared_ptr<const ConvPlan> plan;
};

// At most `most` of the engines that the heuristics name for the graph and that plans can be made for, the best first. Float32 stays
// float32: engines that round their inputs are left out.
std::vector<PlannedConv> planned_convs(const CudnnHandle& handle, const std::shared_ptr<const ConvGraph>& graph, bool fused,
                                       bool is_float32, int most);

}  // namespace tokamak::cuda
