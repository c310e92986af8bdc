#pragma once
// One inference at a time over a shared engine: holds the inputs, the activations and the plans for the shapes it has seen.

#include <memory>
#include <string_view>

#include "runtime/engine.h"
#include "runtime/kernel.h"

namespace tokamak {

class Communicator;
class ThreadPool;

// Receives one call per executed node. Times are steady-clock nanoseconds; those of a GPU are measured there, and reported by run() or
// synchronize() when they are known.
class Profiler {
 public:
  virtual ~Profiler() = default;
  virtual void on_node(const ir::Node& node, int64_t start_ns, int64_t end_ns) = 0;
  // A copy between host and GPU: "upload %x", "download %y".
  virtual void on_copy(std::string_view name, int64_t bytes, int64_t start_ns, int64_t end_ns) {
    (void)name, (void)bytes, (void)start_ns, (void)end_ns;
  }
};

struct ContextOptions {
  std::shared_ptr<ThreadPool> pool;  // null: a process-wide pool of the engine's width
  int profile = 0;                   // optimization profile
  int64_t memory_limit_bytes = 0;    // arena and workspace together; 0: the engine's own limit
  int max_plans = 32;                // shape sets kept, at least 1; the least recently used goes first
  // Of an engine that is one rank of a split model (its graph has all_reduce): to the others. Must be of its rank and world_size.
  std::shared_ptr<Communicator> communicator;
  // Of engines for a GPU:
  int device = 0;                    // which GPU, as CUDA counts
  Place output_place = Place::Host;  // where outputs are left; on the host they are copied back within run()
  bool cuda_graphs = true;           // a plan whose steps all run on the GPU is replayed as one CUDA graph from its second run on
  bool capture_first_run = false;    // that graph is made while the GPU is still busy with the first run, not in the second
};

// One step of a plan, in the order they run.
struct StepInfo {
  const ir::Node* node = nullptr;  // null: a copy between host and GPU
  std::string name;                // the node's label, or "upload %x", "download %y"
  std::string kernel;              // name of the KernelDef; empty for copies
  Place place = Place::Host;       // where it runs
  int64_t bytes = 0;               // of a copy
};

struct MemoryStats {
  int64_t arena_bytes = 0;           // activations and workspace of the current plan
  int64_t lower_bound_bytes = 0;     // largest set of values alive at once, with the workspace of that moment
  int64_t shape_constant_bytes = 0;  // values computed once for the shapes
  int64_t weights_bytes = 0;
  int64_t host_arena_bytes = 0;  // with a GPU: pinned memory of the host; arena_bytes is then the GPU's
  int64_t staging_bytes = 0;     // with a GPU: pinned memory that inputs pass through
};

// Bytes on a GPU that are not there yet.
struct DeviceNeeds {
  int64_t weights_bytes = 0;
  int64_t arena_bytes = 0;           // activations and workspace
  int64_t shape_constant_bytes = 0;  // values computed once for the shapes
};

class ExecutionContext {
 public:
  explicit ExecutionContext(std::shared_ptr<const Engine> engine, ContextOptions options = {});
  ~ExecutionContext();

  // Binds an input by name; the tensor's storage is read by run(), not copied. Throws NotFound, InvalidArgument (dtype, rank) or
  // OutOfRange (a dim outside the profile), each naming the input, what was expected and what was found.
  //
  // For an engine for a GPU, a tensor on the host is read (copied to pinned memory) before run_async() returns; a tensor with
  // `place` Device refers to that GPU's memory, is read where it is by work queued on stream(), and is what an operator that writes its
  // input in place (the KV cache) needs. Its address may change from run to run, but a CUDA graph is only used while it stays.
  void set_input(std::string_view name, Tensor tensor, Place place = Place::Host);
  // Plans for the bound shapes without running (what run() does first for a shape set it has not seen).
  void prepare();
  // For an engine for a GPU: what prepare() would allocate there for the bound shapes, without doing so. Tensors on the GPU may then have
  // any address but null: nothing is read.
  DeviceNeeds device_needs();
  // Runs. Steady state (shapes seen before, no data-dependent shapes) allocates nothing. Throws InvalidArgument when an input is missing.
  void run();
  // Queues a run on stream() and returns as soon as the host's part is done; on the CPU the same as run(). Runs of one context follow each
  // other in order, so that the next one may be queued before the outputs of this one were read.
  void run_async();
  // Waits for what run_async() queued. Throws what went wrong on the GPU meanwhile. No-op on the CPU.
  void synchronize();
  // Where the work of an engine for a GPU is queued; owned by the context. Null on the CPU.
  CUstream_st* stream() const;
  // Valid until the next run(); owned by the context. Clone to keep. Throws NotFound. After run_async() this waits for the run, unless
  // outputs stay on the GPU (ContextOptions::output_place): then it is a device pointer for work queued on stream().
  const Tensor& output(std::string_view name) const;
  const Tensor& output(int index) const;

  // Called per node while set; null to stop. Costs two clock reads a node.
  void set_profiler(Profiler* profiler);
  MemoryStats memory() const;
  // Of the plan for the bound shapes (after prepare() or run()); empty for graphs that run node by node.
  std::vector<StepInfo> steps() const;
  // What did not go as the engine was tuned: kernels that declined these shapes, nodes of an engine for a GPU that run on the host, code
  // that was compiled for another GPU of the family. Each with its reason.
  std::vector<std::string> fallbacks() const;
  const Engine& engine() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tokamak
