#pragma once
// The server without a protocol: models, requests, metrics, and what the management calls change. Protocols hold a reference and translate.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/log.h"
#include "server/metrics.h"
#include "server/repository.h"
#include "server/trace.h"

namespace inference {
class ModelStatisticsResponse;
}

namespace tokamak::server {

class SharedMemoryRegistry;  // shared_memory.h

struct ServerOptions {
  std::string id = "tokamak";
  RepositoryOptions repository;
  BackendSettings backends;
  ModelLoader loader;                                             // load_model() of executed_model.h, or a fake
  std::shared_ptr<SharedMemoryRegistry> shared_memory = nullptr;  // null: clients may not use shared memory
  TraceOptions trace = {};
  MetricsOptions metrics = {};
  bool strict_readiness = true;  // ready only when every model is
};

struct ServerMetadata {
  std::string name, version;
  std::vector<std::string> extensions;
};

class Server {
 public:
  // Throws InvalidArgument for options that cannot be.
  explicit Server(ServerOptions options);
  ~Server();  // stop(0)

  // Loads the models of the start; what failed is logged and returned.
  std::vector<std::pair<std::string, std::string>> start();

  const ServerMetadata& metadata() const { return metadata_; }
  bool is_live() const { return state_ == State::Running || state_ == State::Starting; }
  bool is_ready() const;
  // Whether find_model() would return it.
  bool is_model_ready(const std::string& name, int64_t version = -1) const;

  Repository& repository() { return *repository_; }
  // Version -1: the highest that is ready. Throws NotFound, or Unavailable when the version is not ready or the server is stopping.
  std::shared_ptr<Model> find_model(const std::string& name, int64_t version = -1) const;
  // The version of a path or message: "" is -1. Throws InvalidArgument for what is not a number above 0.
  static int64_t parse_version(const std::string& text);

  // Queues a request for the model it names. Never throws, and never blocks unless it has before_inline: an error comes as a response. The
  // model stays until the last response. Requests that another front end runs itself (OpenAI's) count through hold().
  void infer(std::unique_ptr<InferRequest> request);
  // What stop() waits for; null when the server is stopping.
  std::shared_ptr<const void> hold();
  int64_t num_in_flight() const { return in_flight_; }

  // Name "": of all models. Throws as find_model.
  void fill_statistics(const std::string& name, int64_t version, inference::ModelStatisticsResponse& out) const;
  Metrics& metrics() { return *metrics_; }
  std::string metrics_text(bool summaries = false) const;  // of Prometheus, version 0.0.4; as Metrics::text

  Tracer& tracer() { return *tracer_; }
  SharedMemoryRegistry* shared_memory() { return options_.shared_memory.get(); }  // null: not allowed

  // Refuses new requests (Unavailable) and waits up to `timeout` for those in flight, then unloads everything. False when some were left.
  bool stop(std::chrono::milliseconds timeout);

 private:
  enum class State { Starting, Running, Stopping, Stopped };
  struct InFlight;

  ServerOptions options_;
  ServerMetadata metadata_;
  std::shared_ptr<Tracer> tracer_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Repository> repository_;
  std::atomic<State> state_ = State::Starting;
  std::atomic<int64_t> in_flight_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable idle_;
};

}  // namespace tokamak::server
