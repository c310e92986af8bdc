#include "llm/engine_step_model.h"
#ifdef TOKAMAK_CUDA
#include "llm/cuda_step_model.h"
#endif

namespace tokamak::llm {

std::unique_ptr<StepModel> make_step_model(std::shared_ptr<const Engine> engine, const StepModelOptions& options) {
  if (!engine->is_cuda()) return std::make_unique<EngineStepModel>(std::move(engine), options);
#ifdef TOKAMAK_CUDA
  return std::make_unique<CudaStepModel>(std::move(engine), options);
#else
  fail(ErrorCode::Unsupported, "this engine is for a GPU, and this build of Tokamak is without CUDA");
#endif
}

}  // namespace tokamak::llm
