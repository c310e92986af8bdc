#include "server/repository.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <set>
#include <shared_mutex>
#include <thread>

#include "base/error.h"
#include "server/log.h"
#include "server/model_folder.h"
#include "server/statistics.h"
#include "server/work_queue.h"

namespace tokamak::server {

namespace {

using VersionKey = std::pair<std::string, int64_t>;

std::string message_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "unknown error";
  }
}

// Destroys models on a thread of its own, as whoever lets go last may be one of the model's threads. Outlives the repository when a
// model does.
class Reaper {
 public:
  explicit Reaper(std::function<void(const VersionKey&)> on_destroyed)
      : on_destroyed_(std::move(on_destroyed)), thread_([this] { run(); }) {}

  ~Reaper() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    changed_.notify_all();
    if (thread_.get_id() == std::this_thread::get_id()) thread_.detach();
    else thread_.join();
  }

  // A handle to `model` whose end brings it here. `self` keeps this object.
  static std::shared_ptr<Model> adopt(const std::shared_ptr<Reaper>& self, VersionKey key, std::shared_ptr<Model> model) {
    {
      const std::lock_guard lock(self->mutex_);
      ++self->num_live_;
    }
    Model* const raw = model.get();
    return {raw, [self, key = std::move(key), model = std::move(model)](Model*) mutable { self->bury(std::move(key), std::move(model)); }};
  }

  bool wait_until_empty(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [&] { return num_live_ == 0; });
  }

 private:
  void bury(VersionKey key, std::shared_ptr<Model> model) {
    {
      const std::lock_guard lock(mutex_);
      dead_.emplace_back(std::move(key), std::move(model));
    }
    changed_.notify_all();
  }

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return ends_ || !dead_.empty(); });
      if (dead_.empty()) return;
      auto [key, model] = std::move(dead_.front());
      dead_.pop_front();
      lock.unlock();
      model.reset();
      on_destroyed_(key);
      lock.lock();
      --num_live_;
      changed_.notify_all();
    }
  }

  const std::function<void(const VersionKey&)> on_destroyed_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<VersionKey, std::shared_ptr<Model>>> dead_;
  int num_live_ = 0;
  bool ends_ = false;
  std::thread thread_;
};

enum class VersionState { Loading, Ready, Unloading, Unavailable };
const char* to_string(VersionState state) {
  constexpr const char* kNames[] = {"LOADING", "READY", "UNLOADING", "UNAVAILABLE"};
  return kNames[static_cast<int>(state)];
}

struct Version {
  VersionState state = VersionState::Unavailable;
  std::string reason;
  std::shared_ptr<Model> model;  // when Ready
  std::string fingerprint, directory;
  int num_live = 0;  // objects of this version that are not destroyed yet, replaced ones included
};

struct Entry {
  std::map<int64_t, Version> versions;
  std::vector<std::string> dependencies;
  std::string error;                           // of the last load, when it failed before any version was known
  std::shared_ptr<TemporaryFolder> override_;  // the files of a load request, while they are what is loaded
  std::string polled;                          // what poll() saw
  bool is_explicit = false;                    // asked for by name, not as a part of an ensemble

  bool is_ready() const {
    return std::any_of(versions.begin(), versions.end(), [](const auto& v) { return v.second.state == VersionState::Ready; });
  }
};

}  // namespace

void check_model_name(const std::string& name) {
  if (name.find_first_not_of(" \t\r\n") == std::string::npos)
    fail(ErrorCode::InvalidArgument, "Model name cannot be empty. Please enter a valid name to deploy.");
  const bool has_control = std::any_of(name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; });
  if (name == "." || name == ".." || name.find('/') != std::string::npos || name.find('\\') != std::string::npos || has_control)
    fail(ErrorCode::InvalidArgument, "invalid model name '{}', model name must not contain path traversal characters", name);
}

struct Repository::Impl {
  Impl(const RepositoryOptions& repository_options, std::shared_ptr<const BackendSettings> backend_settings, ModelLoader model_loader)
      : options(repository_options), settings(std::move(backend_settings)), loader(std::move(model_loader)) {
    reaper = std::make_shared<Reaper>([this](const VersionKey& key) { on_destroyed(key); });
  }

  void on_destroyed(const VersionKey& key) {
    const std::unique_lock lock(mutex);
    Version& version = entries[key.first].versions[key.second];
    if (--version.num_live > 0 || version.state != VersionState::Unloading) return;
    version.state = VersionState::Unavailable;
    version.reason = "unloaded";
    log_info("successfully unloaded '{}' version {}", key.first, key.second);
  }

  std::vector<std::string> paths() const {
    std::vector<std::string> out = options.paths;
    if (linked) out.push_back(linked->path());
    return out;
  }

  // Throws NotFound, or InvalidArgument when several repositories have it.
  std::string find_folder(const std::string& name) const {
    std::vector<std::string> found;
    for (const std::string& path : paths()) {
      const auto names = list_models(path);
      if (std::binary_search(names.begin(), names.end(), name)) found.push_back(path + "/" + name);
    }
    if (found.empty()) fail(ErrorCode::NotFound, "failed to load '{}', failed to poll from model repository", name);
    if (found.size() > 1) fail(ErrorCode::InvalidArgument, "failed to poll model '{}': not unique across all model repositories", name);
    return found[0];
  }

  std::shared_ptr<std::mutex> operation_of(const std::string& name) {
    const std::lock_guard lock(operations_mutex);
    auto& operation = operations[name];
    if (!operation) operation = std::make_shared<std::mutex>();
    return operation;
  }

  std::shared_ptr<ModelStatistics> statistics_of(const std::string& name, int64_t version) {
    auto& entry = statistics[{name, version}];
    if (!entry) entry = std::make_shared<ModelStatistics>(name, version);
    return entry;
  }

  ModelFolder read_folder(const std::string& path, const std::string& name, const std::string& config_json) const {
    std::vector<std::string> warnings;
    ReadFolderOptions read = {.config_name = options.config_name, .needs_config = !options.complete_configs, .config_json = config_json};
    ModelFolder folder = read_model_folder(path, name, read, warnings);
    for (const std::string& warning : warnings) log_warning("{}", warning);
    return folder;
  }

  std::shared_ptr<Model> load_version(const ModelFolder& folder, const std::string& name, int64_t version) {
    LoadArgs args;
    args.name = name;
    args.version = version;
    args.config = folder.config;
    args.complete = options.complete_configs;
    args.directory = folder.path;
    args.version_directory = folder.version_path(version);
    args.labels = folder.labels;
    args.settings = settings;
    args.find_model = [this](const std::string& other, int64_t other_version) { return find(other, other_version); };
    {
      const std::unique_lock lock(mutex);
      args.statistics = statistics_of(name, version);
    }
    log_info("loading: {}:{}", name, version);
    const int64_t start = steady_now_ns();
    for (int attempt = 0;; ++attempt) {
      try {
        auto model = loader(args);
        CHECK(model);
        args.statistics->configure(model->config());
        args.statistics->record_load(static_cast<double>(steady_now_ns() - start) / 1e9);
        return Reaper::adopt(reaper, {name, version}, std::move(model));
      } catch (const std::exception& e) {
        if (attempt >= options.load_retries) throw;
        log_warning("failed to load '{}' version {}, trying again: {}", name, version, e.what());
      }
    }
  }

  // The versions that `folder` asks for and that are not loaded as they are now.
  std::vector<int64_t> changed_versions(const std::string& name, const ModelFolder& folder) {
    const std::unique_lock lock(mutex);
    Entry& entry = entries[name];
    std::vector<int64_t> out;
    for (const int64_t number : folder.versions) {
      Version& version = entry.versions[number];
      if (version.state == VersionState::Ready && version.fingerprint == folder.fingerprints.at(number)) continue;
      out.push_back(number);
      if (version.state == VersionState::Ready) continue;  // serves until the new one does
      version.state = VersionState::Loading;
      version.reason.clear();
    }
    return out;
  }

  void set_failed(const std::string& name, const std::vector<int64_t>& versions, const std::string& reason) {
    const std::unique_lock lock(mutex);
    Entry& entry = entries[name];
    if (versions.empty() && !entry.is_ready()) entry.error = reason;
    for (const int64_t number : versions) {
      Version& version = entry.versions[number];
      if (version.state != VersionState::Loading) continue;
      version.state = VersionState::Unavailable;
      version.reason = reason;
    }
  }

  // Takes a version out of service; the caller lets go of the result without the lock.
  std::shared_ptr<Model> retire(Version& version) {
    if (version.state != VersionState::Ready) return nullptr;
    version.state = VersionState::Unloading;
    version.reason.clear();
    version.fingerprint.clear();
    return std::move(version.model);
  }

  void install(const std::string& name, const ModelFolder& folder, std::map<int64_t, std::shared_ptr<Model>> loaded,
               std::shared_ptr<TemporaryFolder> override_files, bool is_explicit) {
    std::vector<std::shared_ptr<Model>> replaced;
    const std::unique_lock lock(mutex);
    Entry& entry = entries[name];
    entry.error.clear();
    entry.dependencies = folder.dependencies();
    entry.override_.swap(override_files);
    entry.is_explicit |= is_explicit;
    for (auto& [number, model] : loaded) {
      Version& version = entry.versions[number];
      replaced.push_back(std::exchange(version.model, std::move(model)));
      version.state = VersionState::Ready;
      version.reason.clear();
      version.fingerprint = folder.fingerprints.at(number);
      version.directory = folder.version_path(number);
      ++version.num_live;
    }
    for (auto& [number, version] : entry.versions)
      if (!std::binary_search(folder.versions.begin(), folder.versions.end(), number)) replaced.push_back(retire(version));
  }

  // `above`: the ensembles whose part this model is.
  void load(const std::string& name, const LoadOverride& load_override, std::vector<std::string> above = {}) {
    check_model_name(name);
    try {
      std::shared_ptr<TemporaryFolder> files;
      if (!load_override.files.empty()) {
        if (load_override.config_json.empty())
          fail(ErrorCode::InvalidArgument, "Load parameter 'config' must be specified for model file override");
        files = std::make_shared<TemporaryFolder>();
        for (const auto& [file, bytes] : load_override.files) files->write(name + "/" + file, bytes);
      }
      const std::string path = files ? files->path() + "/" + name : find_folder(name);
      load_dependencies(name, read_folder(path, name, load_override.config_json), above);

      const auto operation = operation_of(name);
      const std::lock_guard operation_lock(*operation);
      load_folder(name, read_folder(path, name, load_override.config_json), std::move(files), above.empty());
    } catch (const std::exception& e) {
      log_error("failed to load '{}': {}", name, e.what());
      if (knows_folder(name)) set_failed(name, {}, e.what());
      throw;
    }
  }

  bool knows_folder(const std::string& name) const {
    for (const std::string& path : paths()) {
      const auto names = list_models(path);
      if (std::binary_search(names.begin(), names.end(), name)) return true;
    }
    const std::shared_lock lock(mutex);
    return entries.contains(name);
  }

  void load_dependencies(const std::string& name, const ModelFolder& folder, std::vector<std::string>& above) {
    const auto dependencies = folder.dependencies();
    if (dependencies.empty()) return;
    above.push_back(name);
    for (const std::string& dependency : dependencies) {
      if (std::find(above.begin(), above.end(), dependency) != above.end())
        fail(ErrorCode::InvalidArgument, "circular dependency between ensembles: {} -> ... -> {} -> {}", dependency, name, dependency);
      try {
        load(dependency, {}, above);
      } catch (const Error& e) {
        if (is_ready(dependency)) continue;  // an older one serves
        fail(e.code() == ErrorCode::NotFound ? ErrorCode::InvalidArgument : e.code(),
             "ensemble '{}' depends on '{}' which has no loaded version. Model '{}' loading failed with error: {}", name, dependency,
             dependency, e.what());
      }
    }
    above.pop_back();
  }

  void load_folder(const std::string& name, const ModelFolder& folder, std::shared_ptr<TemporaryFolder> files, bool is_explicit) {
    const std::vector<int64_t> changed = changed_versions(name, folder);
    std::map<int64_t, std::shared_ptr<Model>> loaded;
    try {
      for (const int64_t version : changed) loaded[version] = load_version(folder, name, version);
    } catch (...) {
      discard(name, loaded);
      set_failed(name, changed, message_of(std::current_exception()));
      throw;
    }
    install(name, folder, std::move(loaded), std::move(files), is_explicit);
    if (!changed.empty()) log_info("successfully loaded '{}'", name);
  }

  // Models that were loaded and never served: they count as live until they are gone.
  void discard(const std::string& name, std::map<int64_t, std::shared_ptr<Model>>& loaded) {
    const std::unique_lock lock(mutex);
    for (const auto& [version, model] : loaded) ++entries[name].versions[version].num_live;
  }

  void unload(const std::string& name, bool unload_dependents) {
    std::vector<std::string> also;
    {
      const std::shared_lock lock(mutex);
      const auto it = entries.find(name);
      if (it == entries.end()) return;
      for (const auto& [other, entry] : entries)  // an ensemble does not serve without its parts
        if (entry.is_ready() && std::count(entry.dependencies.begin(), entry.dependencies.end(), name)) also.push_back(other);
    }
    for (const std::string& ensemble : also) unload(ensemble, false);

    const auto operation = operation_of(name);
    const std::lock_guard operation_lock(*operation);
    std::vector<std::shared_ptr<Model>> retired;
    std::shared_ptr<TemporaryFolder> files;
    also.clear();
    {
      const std::unique_lock lock(mutex);
      Entry& entry = entries[name];
      for (auto& [number, version] : entry.versions) {
        retired.push_back(retire(version));
        if (version.state == VersionState::Unavailable) version.reason = "unloaded";  // a failure that nobody wants to hear of any more
      }
      entry.is_explicit = false;
      entry.error.clear();
      entry.override_.swap(files);
      if (unload_dependents) also = unused_parts(entry);
    }
    retired.clear();
    for (const std::string& part : also) unload(part, true);
  }

  // Parts of an ensemble that nobody asked for by name and no other ensemble uses.
  std::vector<std::string> unused_parts(const Entry& ensemble) const {
    std::vector<std::string> out;
    for (const std::string& part : ensemble.dependencies) {
      const auto it = entries.find(part);
      bool is_used = it == entries.end() || it->second.is_explicit;
      for (const auto& [other, entry] : entries)
        is_used |= entry.is_ready() && std::count(entry.dependencies.begin(), entry.dependencies.end(), part) > 0;
      if (!is_used) out.push_back(part);
    }
    return out;
  }

  bool is_ready(const std::string& name) const {
    const std::shared_lock lock(mutex);
    const auto it = entries.find(name);
    return it != entries.end() && it->second.is_ready();
  }

  std::shared_ptr<Model> find(const std::string& name, int64_t version) const {
    const std::shared_lock lock(mutex);
    const auto it = entries.find(name);
    if (it == entries.end() || it->second.versions.empty()) fail(ErrorCode::NotFound, "Request for unknown model: '{}' is not found", name);
    const auto& versions = it->second.versions;
    if (version < 0) {
      for (auto v = versions.rbegin(); v != versions.rend(); ++v)
        if (v->second.state == VersionState::Ready) return v->second.model;
      fail(ErrorCode::Unavailable, "Request for unknown model: '{}' has no available versions", name);
    }
    const auto v = versions.find(version);
    if (v == versions.end()) fail(ErrorCode::NotFound, "Request for unknown model: '{}' version {} is not found", name, version);
    if (v->second.state != VersionState::Ready)
      fail(ErrorCode::Unavailable, "Request for unknown model: '{}' version {} is not at ready state", name, version);
    return v->second.model;
  }

  // What lies in the repositories: a model's name, and a text that changes with its files.
  std::map<std::string, std::string> look() const {
    std::map<std::string, std::string> found;
    for (const std::string& path : paths())
      for (const std::string& name : list_models(path))
        found[name] += fmt::format("{}/{}\n{}", path, name, folder_fingerprint(path + "/" + name));
    return found;
  }

  void poll() {
    const auto found = look();
    std::vector<std::string> gone, changed;
    {
      const std::unique_lock lock(mutex);
      for (const auto& [name, entry] : entries)
        if (!found.contains(name) && entry.is_ready()) gone.push_back(name);
      for (const auto& [name, seen] : found)
        if (std::exchange(entries[name].polled, seen) != seen) changed.push_back(name);
    }
    for (const std::string& name : gone) {
      log_info("'{}' is no longer in the model repository", name);
      ignore_errors([&] { unload(name, false); });
    }
    for (const std::string& name : changed) ignore_errors([&] { load(name, {}); });  // logged there
  }

  template <class F>
  static void ignore_errors(F&& call) {
    try {
      call();
    } catch (const std::exception&) {
    }
  }

  void poll_until_stopped() {
    std::unique_lock lock(poll_mutex);
    const auto interval = std::chrono::duration<double>(options.poll_interval_s);
    while (!poll_stop.wait_for(lock, interval, [&] { return stops; })) {
      lock.unlock();
      try {
        poll();
      } catch (const std::exception& e) {
        log_error("failed to poll the model repository: {}", e.what());
      }
      lock.lock();
    }
  }

  void stop_threads() {
    {
      const std::lock_guard lock(poll_mutex);
      stops = true;
    }
    poll_stop.notify_all();
    if (poll_thread.joinable()) poll_thread.join();
    work.reset();
  }

  void check_control() const {
    if (options.mode != ControlMode::Explicit)
      fail(ErrorCode::Unavailable, "explicit model load / unload is not allowed if polling is enabled");
  }

  const RepositoryOptions& options;
  const std::shared_ptr<const BackendSettings> settings;
  const ModelLoader loader;
  std::unique_ptr<TemporaryFolder> linked;  // a repository of links to options.models

  mutable std::shared_mutex mutex;
  std::map<std::string, Entry, std::less<>> entries;
  std::map<VersionKey, std::shared_ptr<ModelStatistics>> statistics;

  // One operation at a time for a name; taken before `mutex`.
  std::mutex operations_mutex;
  std::map<std::string, std::shared_ptr<std::mutex>> operations;

  std::shared_ptr<Reaper> reaper;
  std::unique_ptr<WorkQueue> work;
  std::mutex poll_mutex;
  std::condition_variable poll_stop;
  bool stops = false;
  std::thread poll_thread;
};

Repository::Repository(RepositoryOptions options, std::shared_ptr<const BackendSettings> settings, ModelLoader loader)
    : options_(std::move(options)), impl_(std::make_unique<Impl>(options_, std::move(settings), std::move(loader))) {
  if (options_.mode == ControlMode::Poll && !(options_.poll_interval_s > 0))
    fail(ErrorCode::InvalidArgument, "the time between two looks at the repository must be above 0");
  const auto& startup = options_.startup_models;
  if (startup.size() > 1 && std::count(startup.begin(), startup.end(), "*"))
    fail(ErrorCode::InvalidArgument, "Wildcard model name '*' must be the ONLY startup model if specified at all.");
  for (std::string& path : options_.paths) {
    while (path.size() > 1 && path.ends_with('/')) path.pop_back();
    list_models(path);
  }
  if (!options_.models.empty()) {
    impl_->linked = std::make_unique<TemporaryFolder>();
    for (const auto& [name, model] : options_.models) {
      check_model_name(name);
      link_model(impl_->linked->path(), name, model);
    }
  }
  impl_->work = std::make_unique<WorkQueue>(std::max(options_.load_threads, 1));
}

Repository::~Repository() {
  impl_->stop_threads();
  unload_all(std::chrono::hours(24 * 365));
}

std::vector<std::pair<std::string, std::string>> Repository::start() {
  std::set<std::string> names;
  for (const auto& [name, model] : options_.models) names.insert(name);
  const auto& startup = options_.startup_models;
  if (options_.mode == ControlMode::Explicit && startup != std::vector<std::string>{"*"}) names.insert(startup.begin(), startup.end());
  else
    for (const std::string& path : options_.paths)
      for (std::string& name : list_models(path)) names.insert(std::move(name));

  if (options_.mode == ControlMode::Poll) {
    const auto found = impl_->look();
    const std::unique_lock lock(impl_->mutex);
    for (const auto& [name, seen] : found) impl_->entries[name].polled = seen;
  }
  std::mutex mutex;
  std::vector<std::pair<std::string, std::string>> failures;
  {
    WorkQueue queue(std::max(options_.load_threads, 1));
    for (const std::string& name : names)
      queue.post([&, name] {
        try {
          impl_->load(name, {});
        } catch (const std::exception& e) {
          const std::lock_guard lock(mutex);
          failures.emplace_back(name, e.what());
        }
      });
  }
  std::sort(failures.begin(), failures.end());
  if (options_.mode == ControlMode::Poll) impl_->poll_thread = std::thread([this] { impl_->poll_until_stopped(); });
  return failures;
}

std::shared_ptr<Model> Repository::find(const std::string& name, int64_t version) const { return impl_->find(name, version); }

std::vector<std::shared_ptr<Model>> Repository::ready_models() const {
  std::vector<std::shared_ptr<Model>> out;
  const std::shared_lock lock(impl_->mutex);
  for (const auto& [name, entry] : impl_->entries)
    for (const auto& [number, version] : entry.versions)
      if (version.state == VersionState::Ready) out.push_back(version.model);
  return out;
}

std::vector<int64_t> Repository::ready_versions(const std::string& name) const {
  std::vector<int64_t> out;
  const std::shared_lock lock(impl_->mutex);
  if (const auto it = impl_->entries.find(name); it != impl_->entries.end())
    for (const auto& [number, version] : it->second.versions)
      if (version.state == VersionState::Ready) out.push_back(number);
  return out;
}

std::string Repository::version_directory(const std::string& name, int64_t version) const {
  const auto model = impl_->find(name, version);
  const std::shared_lock lock(impl_->mutex);
  return impl_->entries.at(name).versions.at(model->version()).directory;
}

std::vector<ModelIndex> Repository::index(bool ready_only, const std::string& path) const {
  if (!path.empty() && std::find(options_.paths.begin(), options_.paths.end(), path) == options_.paths.end())
    fail(ErrorCode::NotFound, "repository '{}' is not found", path);
  std::map<std::string, int> found;  // name: how many repositories have it
  for (const std::string& repository : path.empty() ? impl_->paths() : std::vector<std::string>{path})
    for (const std::string& name : list_models(repository)) ++found[name];
  std::vector<ModelIndex> out;
  const std::shared_lock lock(impl_->mutex);
  if (path.empty())
    for (const auto& [name, entry] : impl_->entries)
      if (!entry.versions.empty()) found.try_emplace(name, 1);
  for (const auto& [name, count] : found) {
    const auto it = impl_->entries.find(name);
    if (count > 1 && !ready_only) {
      out.push_back({name, "", "UNAVAILABLE", "model appears in two or more repositories"});
    } else if (it == impl_->entries.end() || it->second.versions.empty()) {
      const std::string error = it == impl_->entries.end() ? "" : it->second.error;
      if (!ready_only) out.push_back({name, "", error.empty() ? "" : "UNAVAILABLE", error});
    } else {
      for (const auto& [number, version] : it->second.versions)
        if (!ready_only || version.state == VersionState::Ready)
          out.push_back({name, std::to_string(number), to_string(version.state), version.reason});
    }
  }
  return out;
}

bool Repository::all_ready() const {
  const std::shared_lock lock(impl_->mutex);
  for (const auto& [name, entry] : impl_->entries) {
    if (!entry.error.empty()) return false;
    for (const auto& [number, version] : entry.versions) {
      const bool is_unloaded = version.state == VersionState::Unavailable && version.reason == "unloaded";
      if (version.state != VersionState::Ready && version.state != VersionState::Unloading && !is_unloaded) return false;
    }
  }
  return true;
}

void Repository::load(const std::string& name, const LoadOverride& load_override) {
  impl_->check_control();
  impl_->load(name, load_override);
}

void Repository::unload(const std::string& name, bool unload_dependents) {
  impl_->check_control();
  impl_->unload(name, unload_dependents);
}

void Repository::load_async(std::string name, LoadOverride load_override, Done done) {
  impl_->work->post([this, name = std::move(name), load_override = std::move(load_override), done = std::move(done)] {
    std::exception_ptr error;
    try {
      load(name, load_override);
    } catch (...) {
      error = std::current_exception();
    }
    done(error);
  });
}

void Repository::unload_async(std::string name, bool unload_dependents, Done done) {
  impl_->work->post([this, name = std::move(name), unload_dependents, done = std::move(done)] {
    std::exception_ptr error;
    try {
      unload(name, unload_dependents);
    } catch (...) {
      error = std::current_exception();
    }
    done(error);
  });
}

void Repository::poll() { impl_->poll(); }

std::vector<std::shared_ptr<ModelStatistics>> Repository::statistics() const {
  std::vector<std::shared_ptr<ModelStatistics>> out;
  const std::shared_lock lock(impl_->mutex);
  for (const auto& [key, statistics] : impl_->statistics) out.push_back(statistics);
  return out;
}

std::shared_ptr<ModelStatistics> Repository::statistics(const std::string& name, int64_t version) const {
  const std::shared_lock lock(impl_->mutex);
  const auto it = impl_->statistics.find({name, version});
  return it == impl_->statistics.end() ? nullptr : it->second;
}

bool Repository::unload_all(std::chrono::milliseconds timeout) {
  std::vector<std::shared_ptr<Model>> retired;
  {
    const std::unique_lock lock(impl_->mutex);
    for (auto& [name, entry] : impl_->entries)
      for (auto& [number, version] : entry.versions) retired.push_back(impl_->retire(version));
  }
  retired.clear();
  return impl_->reaper->wait_until_empty(timeout);
}

}  // namespace tokamak::server
