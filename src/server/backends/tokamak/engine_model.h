#pragma once
// Tensors in, tensors out: an engine's contexts behind the backends' ABI.

#include <memory>
#include <string>
#include <vector>

#include "runtime/execution_context.h"
#include "tokamak/backend.h"

namespace tokamak::backends {

// describe() of an engine (include/tokamak/backend.h). It can batch when the first axis of all inputs and outputs is the same symbol.
std::string describe_engine(const Engine& engine);

// Ascending sizes that batches are padded to: 1, 2, 4, 6, 8, 12, 16, 24, ... and those of `preferred` up to `max_batch_size`, which is the
// last. A GPU needs a plan, kernels chosen by cuDNN and a CUDA graph for each size, together up to a second; at most a third of a batch is
// padding.
std::vector<int64_t> padded_batch_sizes(int64_t max_batch_size, const std::vector<int64_t>& preferred);

class EngineInstance {
 public:
  // `gpu` matters to engines for one. Batches are padded to the next of `batch_sizes` (ascending), larger ones and all if it is empty are
  // executed as they are; inputs of strings are not padded.
  EngineInstance(const tkb_server& server, std::shared_ptr<const Engine> engine, int gpu, int max_plans, std::vector<int64_t> batch_sizes);
  void execute(const tkb_request* const* requests, size_t count);

 private:
  // Rows of zero: the model does not batch. `executed` are those of the batch and its padding.
  void bind_input(const tkb_request* const* requests, size_t count, size_t input, int64_t executed);
  void respond(const tkb_request* const* requests, size_t count, int64_t executed);
  int64_t rows_to_execute(const tkb_request& first, int64_t rows) const;

  const tkb_server& server_;
  std::shared_ptr<const Engine> engine_;
  ExecutionContext context_;
  const std::vector<int64_t> batch_sizes_;
  std::vector<Tensor> gathered_;  // bytes, by input; grow and stay
};

}  // namespace tokamak::backends
