#pragma once
// How a backend's code for an op is described: a KernelDef says yes or gives a reason, lists its tactics, packs weights once at build,
// and makes a Kernel for concrete shapes, which books its workspace and runs.

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"
#include "ir/graph.h"

struct CUstream_st;  // CUstream

namespace tokamak {

class ThreadPool;
namespace cuda {
class Context;
}

// Where a kernel runs and its tensors live.
enum class Place { Host, Device };

// A node with concrete shapes: what a kernel decides on. Inputs that are absent have an undefined tensor and `has_input` false.
// `constant(i)` is the tensor when input i is a constant of the graph (packed or not), else null.
struct NodeView {
  const ir::Node* node = nullptr;
  std::vector<DType> input_dtypes;
  std::vector<Shape> input_shapes;
  std::vector<const Tensor*> constants;  // per input, null when not constant or absent
  std::vector<DType> output_dtypes;
  std::vector<Shape> output_shapes;
  ir::Dim::Bindings bindings;  // symbols of the graph, bound; for dims attributes
  int num_threads = 1;
  const cuda::Context* cuda = nullptr;  // of an engine for a GPU: the target, its code, and the device if it is here
  // Elements from row to row of output 0, a row being its last axis: more than its length when the output is written into its place in a
  // wider tensor. 0: dense. Set only for a kernel whose `pitches_output` says yes.
  int64_t output_pitch = 0;

  const ir::Attrs& attrs() const { return node->attrs; }
  bool has_input(int i) const { return node->input(i) != nullptr; }
  int num_inputs() const { return static_cast<int>(input_shapes.size()); }
  int num_outputs() const { return static_cast<int>(output_shapes.size()); }
};

// Yes, or the reason why not ("k is 4097, needs a multiple of 32").
class Support {
 public:
  static Support yes() { return Support(""); }
  static Support no(std::string reason) { return Support(std::move(reason)); }
  explicit operator bool() const { return reason_.empty(); }
  const std::string& reason() const { return reason_; }

 private:
  explicit Support(std::string reason) : reason_(std::move(reason)) {}
  std::string reason_;
};

struct RunArgs {
  std::span<const Tensor> inputs;  // undefined where absent
  std::span<Tensor> outputs;       // shapes as planned; memory uninitialised
  void* workspace = nullptr;       // workspace_bytes(), 64-byte aligned
  ThreadPool* pool = nullptr;
  CUstream_st* stream = nullptr;  // kernels of Place::Device queue their work here and return
};

// A node bound to shapes. Immutable after construction: several contexts may run it at once with their own args.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual int64_t workspace_bytes() const { return 0; }
  // Output `output` may share the memory of input `input` (same size, element-wise access).
  virtual bool can_alias(int output, int input) const {
    (void)output, (void)input;
    return false;
  }
  // Must not allocate or throw in steady state.
  virtual void run(const RunArgs& args) const = 0;
};

class KernelDef {
 public:
  virtual ~KernelDef() = default;
  virtual std::string_view name() const = 0;  // "avx512.conv_winograd"; the backend's prefix first
  virtual std::string_view op() const = 0;    // the core op
  virtual Place place() const { return Place::Host; }
  virtual Support supports(const NodeView& node) const = 0;
  // No better than the kernels listed before it at any size: the tuner, which times one size, leaves it out where one of those accepts.
  virtual bool is_fallback() const { return false; }
  // Whether the node's kernel can write output 0 with another pitch (NodeView::output_pitch). Asked of nodes that `supports` accepts.
  virtual bool pitches_output(const NodeView&) const { return false; }
  // Parameter settings worth timing, the likeliest first; at least one. Parsed by make().
  virtual std::vector<std::string> tactics(const NodeView&) const { return {""}; }
  // Rewrites constant inputs into this kernel's storage: returns the packed tensor for input i, or an undefined one to leave it as it is.
  // Called once at build; the packed constant is what make() and run() then see. Idempotent: a constant already in the layout stays.
  virtual Tensor pack(const NodeView&, const std::string& tactic, int input) const {
    (void)tactic, (void)input;
    return {};
  }
  // Whether make() and run() know how to read a constant in this packed layout (and check its size). Everything else only ever sees dense
  // tensors, so that an engine from a stranger cannot pass a packed constant for a dense one.
  virtual bool reads_layout(std::string_view layout) const {
    (void)layout;
    return false;
  }
  virtual std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const = 0;
};

}  // namespace tokamak
