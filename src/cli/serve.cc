// tokamak serve: models behind OpenAI's API and KServe v2, over HTTP and gRPC.

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>

#include "base/file.h"
#include "cli/command.h"
#include "cli/serve_flags.h"
#include "llm/tokenizer/tokenizer.h"
#include "server/executed_model.h"
#include "server/grpc/grpc_server.h"
#include "server/http/kserve_routes.h"
#include "server/openai/openai.h"
#include "server/page/page.h"
#include "server/shared_memory.h"

namespace tokamak::cli {

namespace {

namespace http = server::http;
using std::chrono::milliseconds;

constexpr const char* kExamples = R"(
HTTP has KServe v2 (/v2/...), OpenAI (/v1/...), /metrics and a page for people at /; gRPC has KServe v2. SIGTERM and SIGINT finish what is in
flight, for at most --exit-timeout-secs; a second one ends at once. Exit status: 0 after a signal, 1 when something failed.

Examples:
  tokamak serve llama-3.2-1b --precision int8                          a checkpoint: OpenAI's API on http://localhost:8000/v1
  tokamak serve resnet.onnx chat=llama.gguf                            two models; the second is named "chat"
  tokamak serve --model-repository models --model-control-mode poll    Triton's layout; changed models are loaded again
  tokamak serve --model-repository models --tls-cert c.pem --tls-key k.pem --api-key-file keys.txt --log-format JSON
  curl localhost:8000/v1/chat/completions -d '{"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}'
)";

// SIGTERM and SIGINT, for the main thread to wait for; blocked in every thread started after this.
class Signals {
 public:
  Signals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, &before_);
    ::signal(SIGPIPE, SIG_IGN);
  }
  ~Signals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  int wait() const {
    int signal = 0;
    sigwait(&set_, &signal);
    return signal;
  }
  // From now on one ends the process at once, whatever it is doing.
  void end_at_the_next() const {
    std::thread([set = set_] {
      int signal = 0;
      sigwait(&set, &signal);
      _exit(1);
    }).detach();
  }

 private:
  sigset_t set_ = {}, before_ = {};
};

void add_metrics_route(http::Server& front, server::Server& server) {
  front.route("GET", "/metrics", [&server](std::shared_ptr<const http::Request> request, std::shared_ptr<http::Responder> responder) {
    // The live page asks for summaries, which Prometheus gets when --metrics-config says so.
    responder->send({.headers = {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}},
                     .body = server.metrics_text(request->query == "summaries=true")});
  });
}

// Of models that are no language models, by their folders; read once.
class Tokenizers {
 public:
  std::shared_ptr<const llm::Tokenizer> get(const std::string& folder) {
    const std::lock_guard lock(mutex_);
    const auto known = tokenizers_.find(folder);
    if (known != tokenizers_.end()) return known->second;
    std::shared_ptr<const llm::Tokenizer> tokenizer;
    for (const std::string& file : {folder + "/tokenizer.json", folder + "/../tokenizer.json"})
      if (!tokenizer && std::filesystem::is_regular_file(file)) tokenizer = llm::Tokenizer::from_json(read_file(file));
    return tokenizers_[folder] = std::move(tokenizer);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const llm::Tokenizer>> tokenizers_;
};

server::openai::OpenAiOptions openai_options(server::Server& server, const ServeFlags& flags) {
  server::openai::OpenAiOptions options;
  options.list_models = [&server] { return server.repository().ready_models(); };
  options.find_model = [&server](const std::string& name) { return server.find_model(name); };
  options.tokenizer_of = [&server, tokenizers = std::make_shared<Tokenizers>()](const server::Model& model) {
    return tokenizers->get(server.repository().version_directory(model.name(), model.version()));
  };
  options.hold = [&server] { return server.hold(); };
  options.is_healthy = [&server] { return server.is_ready(); };
  options.api_keys = flags.keys();
  options.observer = server.metrics().llm();
  options.tracer = server.tracer().shared_from_this();
  return options;
}

server::GrpcOptions grpc_options(const ServeFlags& flags) {
  server::GrpcOptions options;
  options.address = flags.grpc_address.empty() ? flags.address : flags.grpc_address;
  options.port = flags.grpc_port;
  options.forward_header_pattern = flags.grpc_forward_pattern;
  for (const std::string& text : flags.grpc_restricted) {
    Restriction restriction = parse_restriction(text);
    options.restricted.push_back({std::move(restriction.groups), std::move(restriction.key), std::move(restriction.value)});
  }
  if (!flags.tls_certificate.empty())
    options.tls = std::make_unique<server::GrpcTlsOptions>(server::GrpcTlsOptions{
        .certificate_file = flags.tls_certificate, .key_file = flags.tls_key, .client_ca_file = flags.tls_client_ca});
  return options;
}

http::KserveOptions kserve_options(const ServeFlags& flags) {
  http::KserveOptions options;
  options.forward_header_pattern = flags.http_forward_pattern;
  for (const std::string& text : flags.http_restricted) {
    Restriction restriction = parse_restriction(text);
    options.restricted.push_back({std::move(restriction.groups), std::move(restriction.key), std::move(restriction.value)});
  }
  return options;
}

// What listens. Destroyed before the server it belongs to.
struct FrontEnds {
  FrontEnds(server::Server& server, const ServeFlags& flags) {
    if (flags.allow_http) {
      http_server = std::make_unique<http::Server>(flags.http_options("http"));
      http::add_kserve_routes(*http_server, server, kserve_options(flags));
      server::openai::add_openai_routes(*http_server, openai_options(server, flags));
      add_metrics_route(*http_server, server);
      server::add_page_route(*http_server);
    }
    if (flags.allow_grpc) grpc = std::make_unique<server::GrpcServer>(server, grpc_options(flags));
    if (flags.allow_metrics) {
      metrics = std::make_unique<http::Server>(flags.http_options("metrics"));
      add_metrics_route(*metrics, server);
    }
  }

  void start(const ServeFlags& flags) {
    const auto tell = [&](const char* what, const std::string& own, int port) {
      server::log_info("Started {} at {}:{}", what, own.empty() ? flags.address : own, port);
    };
    if (grpc) {
      grpc->start();
      tell("GRPCInferenceService", flags.grpc_address, grpc->port());
    }
    if (http_server) {
      http_server->start();
      tell("HTTPService", flags.http_address, http_server->port());
    }
    if (metrics) {
      metrics->start();
      tell("Metrics Service", flags.metrics_address, metrics->port());
    }
  }

  // Answers in progress finish; both protocols have the same time for it.
  void stop(int timeout_s) {
    std::thread other([&] {
      if (grpc) grpc->stop(std::chrono::seconds(timeout_s));
    });
    if (http_server) http_server->stop(timeout_s);
    other.join();
    if (metrics) metrics->stop(0);
  }

  std::unique_ptr<http::Server> http_server, metrics;
  std::unique_ptr<server::GrpcServer> grpc;
};

}  // namespace

int run_serve(const Words& args) {
  CLI::App app("Serves models: OpenAI's API and KServe v2 over HTTP, KServe v2 over gRPC, metrics for Prometheus.", "serve");
  app.footer(kExamples);
  ServeFlags flags;
  flags.add_to(app);
  if (const auto status = parse(app, args)) return *status;
  server::log().set(flags.log_settings());

  const Signals signals;
  server::ServerOptions options = flags.server_options();
  options.loader = server::load_model;
  if (flags.allow_client_shm) options.shared_memory = std::make_shared<server::SharedMemoryRegistry>();
  server::Server server(std::move(options));
  FrontEnds front_ends(server, flags);  // a port that is taken is told before minutes of loading
  front_ends.start(flags);
  // Loading may take minutes, in which a signal must work: it has a thread of its own.
  std::atomic<bool> is_loading = true, has_failed = false;
  std::thread loading([&, waiting = pthread_self()] {
    const auto failures = server.start();
    has_failed = !failures.empty() && flags.exit_on_error;
    is_loading = false;
    if (has_failed) {
      server::log_error("ending, as '{}' failed to load; --exit-on-error false serves the others", failures[0].first);
      pthread_kill(waiting, SIGTERM);
    } else {
      server::log_info("{}", failures.empty() ? "ready" : "serving the models that did load");
    }
  });

  const int signal = signals.wait();
  if (is_loading) {
    server::log_info("signal {} while models load: ending", signal);
    _exit(0);
  }
  loading.join();
  if (!has_failed) server::log_info("signal {}: finishing what is in flight, for at most {} s", signal, flags.exit_timeout_s);
  signals.end_at_the_next();
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(flags.exit_timeout_s);
  front_ends.stop(flags.exit_timeout_s);
  const auto left = std::chrono::duration_cast<milliseconds>(end - std::chrono::steady_clock::now());
  if (!server.stop(std::max(left, milliseconds(0)))) {
    server::log_error("Exit timeout expired. Exiting immediately.");
    _exit(1);
  }
  server::log_info("stopped");
  return has_failed ? 1 : 0;
}

}  // namespace tokamak::cli
