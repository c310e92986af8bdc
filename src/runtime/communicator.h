#pragma once
// What the ranks of a model that is split over several engines (tensor parallelism) tell each other. Each rank has an engine and a context
// of its own, on a device, in a thread or process of its own; this is the seam between them.

#include "base/tensor.h"
#include "runtime/kernel.h"

namespace tokamak {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;  // 0 to world_size() - 1
  virtual int world_size() const = 0;
  // `data` (f32, f16 or bf16) becomes the sum of what all ranks gave, the same bits on each. Every rank calls with the same shape and
  // dtype, in the same order. With Place::Host it returns when that is so; with Place::Device the work is queued on `stream`, which may be
  // in capture. Throws Error when another rank is gone.
  virtual void all_reduce(Tensor& data, Place place, CUstream_st* stream) = 0;
};

// The communicator of kernels that run on this thread: that of the context which runs them (ContextOptions::communicator). A kernel sees
// its tensors and nothing else, but for the few that communicate. Null: none.
Communicator* current_communicator();

class CommunicatorScope {
 public:
  explicit CommunicatorScope(Communicator* communicator);
  ~CommunicatorScope();
  CommunicatorScope(const CommunicatorScope&) = delete;
  CommunicatorScope& operator=(const CommunicatorScope&) = delete;

 private:
  Communicator* before_;
};

}  // namespace tokamak
