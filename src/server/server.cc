#include "server/server.h"

#include <charconv>

#include "base/error.h"
#include "base/version.h"
#include "grpc_service.pb.h"
#include "server/statistics.h"

namespace tokamak::server {

// One request, counted until it is destroyed. The last one wakes stop().
struct Server::InFlight {
  explicit InFlight(Server& counting) : server(counting) { server.in_flight_.fetch_add(1); }
  ~InFlight() {
    if (server.in_flight_.fetch_sub(1) == 1 && server.state_.load() == State::Stopping) {
      const std::lock_guard lock(server.mutex_);
      server.idle_.notify_all();
    }
  }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;
  Server& server;
};

Server::Server(ServerOptions options)
    : options_(std::move(options)),
      tracer_(std::make_shared<Tracer>(options_.trace)),
      metrics_(std::make_unique<Metrics>(options_.metrics)) {
  options_.backends.tracer = tracer_;
  metadata_ = {options_.id,
               kVersion,
               {"classification", "sequence", "model_repository", "model_repository(unload_dependents)", "schedule_policy",
                "model_configuration", "system_shared_memory", "binary_tensor_data", "parameters", "statistics", "trace", "logging"}};
  CHECK(options_.loader);
  repository_ =
      std::make_unique<Repository>(options_.repository, std::make_shared<const BackendSettings>(options_.backends), options_.loader);
}

Server::~Server() { stop(std::chrono::milliseconds(0)); }

std::vector<std::pair<std::string, std::string>> Server::start() {
  auto failures = repository_->start();
  State starting = State::Starting;
  state_.compare_exchange_strong(starting, State::Running);
  return failures;
}

bool Server::is_ready() const { return state_ == State::Running && (!options_.strict_readiness || repository_->all_ready()); }

bool Server::is_model_ready(const std::string& name, int64_t version) const {
  if (state_ != State::Running && state_ != State::Starting) return false;
  if (version < 0) return !repository_->ready_versions(name).empty();
  for (const int64_t ready : repository_->ready_versions(name))
    if (ready == version) return true;
  return false;
}

std::shared_ptr<Model> Server::find_model(const std::string& name, int64_t version) const {
  if (state_ == State::Stopping || state_ == State::Stopped) fail(ErrorCode::Unavailable, "Server is stopping, it takes no new requests");
  return repository_->find(name, version);
}

int64_t Server::parse_version(const std::string& text) {
  if (text.empty()) return -1;
  int64_t version = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
  if (error != std::errc() || end != text.data() + text.size() || version < 1)
    fail(ErrorCode::InvalidArgument, "failed to get model version from specified version string '{}', expected a number above 0", text);
  return version;
}

void Server::infer(std::unique_ptr<InferRequest> request) {
  if (request->received_ns == 0) request->received_ns = steady_now_ns();
  std::shared_ptr<Model> model;
  auto in_flight = std::make_shared<InFlight>(*this);  // before the look at the state: stop() counts it, or find_model refuses
  try {
    model = find_model(request->model_name, request->model_version);
  } catch (const Error& e) {
    if (request->trace) request->trace->end(steady_now_ns(), e.what());
    respond_error(*request, e.code(), e.what());
    return;
  }
  request->on_response = [on_response = std::move(request->on_response), model, in_flight = std::move(in_flight),
                          trace = request->trace](InferResponse response) {
    if (trace && response.is_final) trace->end(steady_now_ns(), response.error);
    on_response(std::move(response));
  };
  model->infer(std::move(request));
}

std::shared_ptr<const void> Server::hold() {
  auto in_flight = std::make_shared<InFlight>(*this);
  if (state_ == State::Stopping || state_ == State::Stopped) return nullptr;
  return in_flight;
}

void Server::fill_statistics(const std::string& name, int64_t version, inference::ModelStatisticsResponse& out) const {
  const auto add = [&](const std::string& model, int64_t number) {
    if (const auto statistics = repository_->statistics(model, number)) statistics->fill(*out.add_model_stats());
  };
  if (name.empty()) {
    for (const auto& model : repository_->ready_models()) add(model->name(), model->version());
  } else if (version < 0) {
    find_model(name);
    for (const int64_t ready : repository_->ready_versions(name)) add(name, ready);
  } else {
    find_model(name, version);
    add(name, version);
  }
}

std::string Server::metrics_text(bool summaries) const {
  return metrics_->text(*repository_, options_.backends.response_cache.get(), summaries);
}

bool Server::stop(std::chrono::milliseconds timeout) {
  if (state_.exchange(State::Stopping) == State::Stopped) {
    state_ = State::Stopped;
    return true;
  }
  const auto end = std::chrono::steady_clock::now() + timeout;
  bool is_idle = false;
  {
    std::unique_lock lock(mutex_);
    // Bounded waits: a count that reaches 0 between the test and the wait wakes nobody.
    while (!(is_idle = in_flight_ == 0) && std::chrono::steady_clock::now() < end) idle_.wait_for(lock, std::chrono::milliseconds(50));
  }
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
  is_idle &= repository_->unload_all(std::max(left, std::chrono::milliseconds(100)));
  tracer_->close();
  state_ = State::Stopped;
  return is_idle;
}

}  // namespace tokamak::server
