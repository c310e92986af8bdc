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

class EngineInstance {
 public:
  // `gpu` matters to engines for one.
  EngineInstance(const tkb_server& server, std::shared_ptr<const Engine> engine, int gpu, int max_plans);
  void execute(const tkb_request* const* requests, size_t count);

 private:
  void bind_input(const tkb_request* const* requests, size_t count, size_t input, int64_t rows);
  void respond(const tkb_request* const* requests, size_t count, int64_t rows);

  const tkb_server& server_;
  std::shared_ptr<const Engine> engine_;
  ExecutionContext context_;
  std::vector<Tensor> gathered_;  // bytes, by input; grow and stay
};

}  // namespace tokamak::backends
