#pragma once
// Models that a backend executes: loaded, their instances running, requests checked, queued and batched. Ensembles are in ensemble.h.

#include <memory>

#include "server/model.h"
#include "server/model_loader.h"

namespace tokamak::server {

// A ModelLoader, for ensembles too. Loads the model, starts its instances and warms them up. Dropping the last reference finishes what the
// model has been given, then unloads; not from a thread of the model's own (a response callback). Throws what the backend says,
// InvalidArgument for a config that the model contradicts, NotFound for a missing file or backend.
std::shared_ptr<Model> load_model(const LoadArgs& args);

}  // namespace tokamak::server
