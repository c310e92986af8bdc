#pragma once
// Samples to run before a model is ready, from model_warmup.

#include <memory>
#include <string>
#include <vector>

#include "model_config.pb.h"
#include "server/request.h"

namespace tokamak::server {

// One request for each sample and count, its name as id. Files are in `model_folder`/warmup: raw bytes, BYTES as KServe's. Inputs that
// sequence_batching names are left out: the batcher makes them, of a sequence that starts and ends. Throws InvalidArgument for a sample
// that does not fit the config, NotFound for a file.
std::vector<std::shared_ptr<const InferRequest>> warmup_requests(const inference::ModelConfig& config, const std::string& model_folder);

}  // namespace tokamak::server
