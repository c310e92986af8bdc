#pragma once
// How the repository asks for a model: one call a version. The server's own loader is load_model() (executed_model.h); tests bring fakes.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model_config.pb.h"
#include "server/model.h"

namespace tokamak::server {

class ModelStatistics;
class RateLimiter;
class ResponseCache;
class Tracer;

// What the command line says about backends.
struct BackendSettings {
  std::vector<std::string> directories;  // where lib<backend>.so are looked for, in this order; then beside the binary
  // --backend-config=<backend>,<key>=<value>; those for all backends under "".
  std::map<std::string, std::map<std::string, std::string>> config;
  int default_max_batch_size = 4;  // of a model that can batch and whose config does not say
  std::string default_device;      // "cpu", "cuda" or "" (a GPU when there is one), for models whose instance groups leave it open
  std::string precision;           // of models built at load: "fp32", ... ; "" lets the backend choose
  std::shared_ptr<RateLimiter> rate_limiter;      // null: instances execute whenever they are free
  std::shared_ptr<ResponseCache> response_cache;  // null: nothing is cached
  std::shared_ptr<Tracer> tracer;                 // the server's; null: nothing is traced
};

struct LoadArgs {
  std::string name;
  int64_t version = 1;
  // As read, with what can be said without the model (backend, file name, version policy); inputs, outputs and max_batch_size may be
  // missing. The loader completes it with complete_config() when `complete`, and checks it with validate_config().
  inference::ModelConfig config;
  bool complete = true;
  std::string directory;          // <repository>/<name>
  std::string version_directory;  // <repository>/<name>/<version>
  // Lines of an output's label file, by output name.
  std::map<std::string, std::vector<std::string>> labels = {};
  std::shared_ptr<ModelStatistics> statistics;
  std::shared_ptr<const BackendSettings> settings;
  // Another model of this server, for ensembles and for models that call models. Throws as Server::find_model. Valid as long as the server.
  std::function<std::shared_ptr<Model>(const std::string& name, int64_t version)> find_model;
};

// Returns when the model is ready (warm-up included). Throws Error: the message becomes the reason in the index. Called from several
// threads at once. The result may be dropped on any thread, the model's own included: the repository sees to that.
using ModelLoader = std::function<std::shared_ptr<Model>(const LoadArgs&)>;

}  // namespace tokamak::server
