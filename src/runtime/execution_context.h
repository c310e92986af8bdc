#pragma once
// One inference at a time over a shared engine: holds the inputs, the activations and the plans for the shapes it has seen.

#include <memory>
#include <string_view>

#include "runtime/engine.h"

namespace tokamak {

class ThreadPool;

// Receives one call per executed node. Times are steady-clock nanoseconds.
class Profiler {
 public:
  virtual ~Profiler() = default;
  virtual void on_node(const ir::Node& node, int64_t start_ns, int64_t end_ns) = 0;
};

struct ContextOptions {
  std::shared_ptr<ThreadPool> pool;  // null: a process-wide pool of the engine's width
  int profile = 0;                   // optimization profile
  int64_t memory_limit_bytes = 0;    // arena and workspace together; 0: the engine's own limit
  int max_plans = 32;                // shape sets kept, at least 1; the least recently used goes first
};

struct MemoryStats {
  int64_t arena_bytes = 0;           // activations and workspace of the current plan
  int64_t lower_bound_bytes = 0;     // largest set of values alive at once, with the workspace of that moment
  int64_t shape_constant_bytes = 0;  // values computed once for the shapes
  int64_t weights_bytes = 0;
};

class ExecutionContext {
 public:
  explicit ExecutionContext(std::shared_ptr<const Engine> engine, ContextOptions options = {});
  ~ExecutionContext();

  // Binds an input by name; the tensor's storage is read by run(), not copied. Throws NotFound, InvalidArgument (dtype, rank) or
  // OutOfRange (a dim outside the profile), each naming the input, what was expected and what was found.
  void set_input(std::string_view name, Tensor tensor);
  // Plans for the bound shapes without running (what run() does first for a shape set it has not seen).
  void prepare();
  // Runs. Steady state (shapes seen before, no data-dependent shapes) allocates nothing. Throws InvalidArgument when an input is missing.
  void run();
  // Valid until the next run(); owned by the context. Clone to keep. Throws NotFound.
  const Tensor& output(std::string_view name) const;
  const Tensor& output(int index) const;

  // Called per node while set; null to stop. Costs two clock reads a node.
  void set_profiler(Profiler* profiler);
  MemoryStats memory() const;
  const Engine& engine() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tokamak
