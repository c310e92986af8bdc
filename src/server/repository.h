#pragma once
// Folders of models: which there are, which versions of them are loaded, and how that changes while requests are in flight.
//
//   <repository>/<model>/config.pbtxt, label files, configs/<name>.pbtxt, <version>/<files>
//
// A version that is replaced or unloaded is no longer found, finishes what it has, and is destroyed when its last user lets go, on a
// thread of the repository. A load that fails leaves what was there before.

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "server/model_loader.h"

namespace tokamak::server {

enum class ControlMode { None, Explicit, Poll };

struct RepositoryOptions {
  std::vector<std::string> paths;
  ControlMode mode = ControlMode::None;
  double poll_interval_s = 15;
  std::vector<std::string> startup_models = {};  // Explicit: loaded at the start; "*" alone is all of them
  // Models outside any repository: a file or a folder, served as version 1 under a name. Loaded at the start in every mode.
  std::vector<std::pair<std::string, std::string>> models = {};
  bool complete_configs = true;
  std::string config_name = {};  // configs/<config_name>.pbtxt is taken before config.pbtxt
  int load_threads = 4;
  int load_retries = 0;
};

struct ModelIndex {
  std::string name, version, state, reason;  // version and state are "" for a model that was never loaded
};

// The parameters of a load request.
struct LoadOverride {
  std::string config_json;                   // "" for none
  std::map<std::string, std::string> files;  // "<version>/<file>" under the model's folder: bytes. They are all the model then has.
};

class Repository {
 public:
  // Throws InvalidArgument or NotFound for options that cannot be.
  Repository(RepositoryOptions options, std::shared_ptr<const BackendSettings> settings, ModelLoader loader);
  ~Repository();  // unload_all() and waits for the models that are still in use

  // Loads what is to be loaded at the start and begins polling. Returns what failed: model and reason.
  std::vector<std::pair<std::string, std::string>> start();

  // Version -1: the highest that is ready. Throws NotFound or Unavailable with Triton's messages.
  std::shared_ptr<Model> find(const std::string& name, int64_t version = -1) const;
  // Every ready version, by name and version.
  std::vector<std::shared_ptr<Model>> ready_models() const;
  std::vector<int64_t> ready_versions(const std::string& name) const;
  // Where a ready version's files lie. Throws as find().
  std::string version_directory(const std::string& name, int64_t version) const;
  // Of `path`'s models only when it is not empty (as given in the options; Throws NotFound for another one).
  std::vector<ModelIndex> index(bool ready_only = false, const std::string& path = {}) const;
  // No version of any model is loading, and none that should be ready failed.
  bool all_ready() const;

  // Loads or reloads a model, and the models an ensemble is made of; when nothing changed it does nothing. Throws InvalidArgument (name,
  // override), NotFound (no such model), Unavailable (not in control mode explicit), and what the loader threw.
  void load(const std::string& name, const LoadOverride& override = {});
  // Returns when no version is found any more; an ensemble that it is a part of goes with it. Nothing happens to a model that is not
  // loaded.
  void unload(const std::string& name, bool unload_dependents = false);
  // The same on a thread of the repository; `done` is called there with what was thrown, or null.
  using Done = std::function<void(std::exception_ptr)>;
  void load_async(std::string name, LoadOverride override, Done done);
  void unload_async(std::string name, bool unload_dependents, Done done);

  // Compares the folders with what is loaded, and loads and unloads accordingly. Called by the polling thread.
  void poll();

  // Of every version that was ever loaded.
  std::vector<std::shared_ptr<ModelStatistics>> statistics() const;
  std::shared_ptr<ModelStatistics> statistics(const std::string& name, int64_t version) const;  // null when there is none

  // Nothing is loaded any more: every model ends; in-flight requests keep theirs. False when some are still in use after `timeout`.
  bool unload_all(std::chrono::milliseconds timeout);
  const RepositoryOptions& options() const { return options_; }

 private:
  struct Impl;
  RepositoryOptions options_;
  std::unique_ptr<Impl> impl_;
};

// Whether a request may name a model so: not empty, no '/', no "..", no control characters. Throws InvalidArgument.
void check_model_name(const std::string& name);

}  // namespace tokamak::server
