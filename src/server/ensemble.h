#pragma once
// Models that are made of other models: a graph of steps (`ensemble_scheduling`), each a request to a member.

#include <memory>

#include "server/model.h"
#include "server/model_loader.h"

namespace tokamak::server {

// A ModelLoader for configs of platform "ensemble". The members are those that args.find_model has, now for the checks and again for each
// request, so that one that was loaded anew serves. Dropping the last reference does not wait: requests in flight keep what they need.
// Throws InvalidArgument with Triton's messages for a config that contradicts itself or the members.
std::shared_ptr<Model> load_ensemble(const LoadArgs& args);

}  // namespace tokamak::server
