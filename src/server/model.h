#pragma once
// One loaded version of a model, as the protocols and the ensembles see it.

#include <memory>
#include <string>
#include <vector>

#include "server/request.h"

namespace inference {
class ModelConfig;  // generated from proto/model_config.proto
}

namespace tokamak::server {

class LlmModel;
class ModelStatistics;

struct TensorMetadata {
  std::string name;
  DType dtype = DType::F32;
  Shape shape;  // -1: variable; with the batch axis (-1) first when the model batches
  std::vector<std::string> labels = {};
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const std::string& name() const = 0;
  virtual int64_t version() const = 0;
  virtual const std::string& platform() const = 0;           // "tokamak", "onnxruntime", "python", "ensemble"
  virtual const inference::ModelConfig& config() const = 0;  // completed; immutable
  virtual const std::vector<TensorMetadata>& inputs() const = 0;
  virtual const std::vector<TensorMetadata>& outputs() const = 0;
  virtual bool is_decoupled() const = 0;
  // Checks the request against the config, then queues it; every error comes as a response. Never throws, and never blocks unless the
  // request has before_inline; the caller then keeps the model.
  virtual void infer(std::unique_ptr<InferRequest> request) = 0;
  virtual ModelStatistics& statistics() = 0;
  // Null unless it is a language model; then valid as long as this model.
  virtual LlmModel* llm() { return nullptr; }
};

}  // namespace tokamak::server
