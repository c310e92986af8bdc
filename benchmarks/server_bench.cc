// What the server costs beside the model: latency of one client and throughput of several, against bare servers of the same libraries.
//   tokamak_server_bench [MODEL] [--rounds 7] [--requests 1000] [--connections 16] [--seconds 2] [--only HTTP,gRPC] [--json FILE]
// MODEL: an ONNX file or an engine without data-dependent inputs; variable dims are 1. Without one: y = -x of 16 floats.
//
// The ways are measured in turns, a round each, as other programs may use the machine: figures are medians of the rounds. Clients and bare
// servers are processes of their own, this program again: within one process gRPC's clients and servers share their polling threads.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "benchmarks/server_clients.h"
#include "benchmarks/server_echo.h"
#include "builder/builder.h"
#include "grpc_service.pb.h"
#include "runtime/execution_context.h"
#include "server/executed_model.h"
#include "server/grpc/grpc_server.h"
#include "server/http/kserve_routes.h"
#include "server/kserve.h"
#include "tests/support/onnx_writer.h"

namespace tokamak::bench {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Options {
  std::string client, request;  // what a client's process is told: "http" or "grpc", and the file with its request
  std::string echo;             // what a bare server's process is told: "http" or "grpc"; the answer is in the file `request`
  int port = 0;
  std::string model, json;
  std::vector<std::string> only;  // ways; empty: all
  int rounds = 7, requests = 1000, connections = 16;
  double seconds = 2;
};

// A repository of one model, "m", in a folder that goes with it.
class Repository {
 public:
  explicit Repository(const std::string& model) {
    std::string name = (fs::temp_directory_path() / "tokamak-server-bench-XXXXXX").string();
    if (!::mkdtemp(name.data())) fail(ErrorCode::Io, "cannot make a folder like '{}'", name);
    path_ = name;
    fs::create_directories(path_ / "models" / "m" / "1");
    std::string source = model;
    if (model.empty()) {
      source = (path_ / "negate.onnx").string();
      test::OnnxGraph g;
      g.input("x", DType::F32, {"batch", 16}).output("y", DType::F32, {"batch", 16}).node("Neg", {"x"}, {"y"});
      std::ofstream(source, std::ios::binary) << test::onnx_model(g);
    }
    engine_ = fs::path(source).extension() == ".engine" ? Engine::load(source) : build_engine(source, {.num_threads = 1});
    engine_->save((path_ / "models" / "m" / "1" / "model.engine").string());
  }
  ~Repository() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string path() const { return (path_ / "models").string(); }
  const std::shared_ptr<const Engine>& engine() const { return engine_; }

 private:
  fs::path path_;
  std::shared_ptr<const Engine> engine_;
};

std::vector<server::NamedTensor> make_inputs(const Engine& engine) {
  std::vector<server::NamedTensor> inputs;
  for (const TensorInfo& info : engine.inputs()) {
    Shape shape;
    for (const ir::Dim& dim : info.type.dims) shape.push_back(dim.is_const() ? dim.value() : 1);
    inputs.push_back({.name = info.name, .tensor = Tensor::zeros(info.dtype, std::move(shape))});
  }
  return inputs;
}

std::string http_request(const std::vector<server::NamedTensor>& inputs) {
  Json json = {{"parameters", {{"binary_data_output", true}}}, {"inputs", Json::array()}};
  std::string bytes;
  for (const auto& [name, tensor, parameters] : inputs) {
    const auto size = static_cast<size_t>(server::kserve::wire_size(tensor));
    json["inputs"].push_back({{"name", name},
                              {"shape", tensor.shape()},
                              {"datatype", server::kserve::datatype_name(tensor.dtype())},
                              {"parameters", {{"binary_data_size", size}}}});
    const size_t at = bytes.size();
    bytes.resize(at + size);
    server::kserve::write_wire(tensor, reinterpret_cast<std::byte*>(bytes.data() + at));
  }
  const std::string head = json.dump();
  return fmt::format(
      "POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
      "Inference-Header-Content-Length: {}\r\nContent-Length: {}\r\n\r\n{}{}",
      head.size(), head.size() + bytes.size(), head, bytes);
}

std::string grpc_request(const std::vector<server::NamedTensor>& inputs) {
  inference::ModelInferRequest request;
  request.set_model_name("m");
  for (const auto& [name, tensor, parameters] : inputs) {
    auto& input = *request.add_inputs();
    input.set_name(name);
    input.set_datatype(server::kserve::datatype_name(tensor.dtype()));
    input.mutable_shape()->Add(tensor.shape().begin(), tensor.shape().end());
    std::string& bytes = *request.add_raw_input_contents();
    bytes.resize(static_cast<size_t>(server::kserve::wire_size(tensor)));
    server::kserve::write_wire(tensor, reinterpret_cast<std::byte*>(bytes.data()));
  }
  return request.SerializeAsString();
}

void infer_in_process(server::Server& server, const std::vector<server::NamedTensor>& inputs) {
  auto request = std::make_unique<server::InferRequest>();
  request->model_name = "m";
  request->inputs = inputs;
  std::atomic<int> state = 0;
  std::string error;
  request->on_response = [&](server::InferResponse response) {
    error = response.error;
    state.store(1, std::memory_order_release);
    state.notify_one();
    state.store(2, std::memory_order_release);  // the last that this thread does with it
  };
  server.infer(std::move(request));
  state.wait(0, std::memory_order_acquire);
  while (state.load(std::memory_order_acquire) != 2) {
  }
  if (!error.empty()) fail(ErrorCode::Internal, "{}", error);
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;  // not measured
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

struct Latency {
  double median_us = 0, p99_us = 0;
};

Latency measure(int requests, const std::function<void()>& ask) {
  std::vector<double> us;
  for (int i = 0; i < requests + requests / 10; ++i) {
    const auto start = std::chrono::steady_clock::now();
    ask();
    if (i >= requests / 10) us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(us.begin(), us.end());
  return {us[us.size() / 2], us[us.size() * 99 / 100]};
}

// The client's process: prints median and P99, and how many answers a second several connections get.
void run_client(const Options& o) {
  const std::string request = read_file(o.request);
  Latency latency;
  double per_second = 0;
  if (o.client == "http") {
    HttpClient client(o.port, request);
    latency = measure(o.requests, [&] { client.ask(); });
    per_second = http_throughput(o.port, request, o.connections, o.seconds);
  } else {
    GrpcClient client(o.port, request);
    latency = measure(o.requests, [&] { client.ask(); });
    per_second = grpc_throughput(o.port, request, o.connections, o.seconds);
  }
  fmt::print("{} {} {}\n", latency.median_us, latency.p99_us, per_second);
}

// The bare server's process: prints its port, and serves until its input ends.
void run_echo(const Options& o) {
  const auto serve = [](const auto& server) {
    fmt::print("{}\n", server.port());
    std::fflush(stdout);
    while (std::fgetc(stdin) != EOF) {
    }
  };
  if (o.echo == "http") serve(HttpEcho(read_file(o.request)));
  else serve(GrpcEcho(read_file(o.request)));
}

class EchoProcess {
 public:
  EchoProcess(const std::string& kind, const std::string& answer_file) {
    int in[2], out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) fail(ErrorCode::Io, "no pipes for the bare server");
    const std::string self = fs::read_symlink("/proc/self/exe").string();
    process_ = ::vfork();
    if (process_ == 0) {
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      ::execl(self.c_str(), self.c_str(), "--echo", kind.c_str(), "--request", answer_file.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    input_ = in[1];
    std::FILE* printed = ::fdopen(out[0], "r");
    const bool is_read = std::fscanf(printed, "%d", &port_) == 1;
    std::fclose(printed);
    if (!is_read) fail(ErrorCode::Internal, "the bare {} server did not start", kind);
  }
  EchoProcess(const EchoProcess&) = delete;
  EchoProcess& operator=(const EchoProcess&) = delete;
  ~EchoProcess() {
    ::close(input_);
    ::waitpid(process_, nullptr, 0);
  }
  int port() const { return port_; }

 private:
  pid_t process_ = -1;
  int input_ = -1, port_ = 0;
};

// One way to have the model run, and what its rounds measured.
struct Way {
  std::string name;
  std::function<void()> ask;  // null: a client's process does
  std::string client = {}, request = {};
  int port = 0;
  std::vector<double> medians_us = {}, p99s_us = {}, per_second = {};

  void run(const Options& o) {
    Latency latency;
    if (ask) {
      latency = measure(o.requests, ask);
    } else {
      const std::string command =
          fmt::format("'{}' --client {} --port {} --request '{}' --requests {} --connections {} --seconds {}",
                      fs::read_symlink("/proc/self/exe").string(), client, port, request, o.requests, o.connections, o.seconds);
      std::FILE* pipe = ::popen(command.c_str(), "re");
      double rate = 0;
      const bool is_read = pipe && std::fscanf(pipe, "%lf %lf %lf", &latency.median_us, &latency.p99_us, &rate) == 3;
      if (!pipe || ::pclose(pipe) != 0 || !is_read) fail(ErrorCode::Internal, "the client of {} failed: {}", name, command);
      per_second.push_back(rate);
    }
    medians_us.push_back(latency.median_us);
    p99s_us.push_back(latency.p99_us);
  }
};

std::string write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

void run(const Options& options) {
  const Repository repository(options.model);
  server::Server server({.repository = {.paths = {repository.path()}, .mode = server::ControlMode::Explicit, .startup_models = {"m"}},
                         .loader = server::load_model});
  for (const auto& [model, reason] : server.start()) fail(ErrorCode::InvalidArgument, "model '{}': {}", model, reason);
  server::http::Server http({.address = "127.0.0.1", .port = 0, .threads = 1});
  server::http::add_kserve_routes(http, server);
  http.start();
  server::GrpcOptions grpc_options;
  grpc_options.address = "127.0.0.1";
  grpc_options.port = 0;
  server::GrpcServer grpc(server, std::move(grpc_options));
  grpc.start();

  const std::vector<server::NamedTensor> inputs = make_inputs(*repository.engine());
  ExecutionContext context(repository.engine());
  const std::string http_text = http_request(inputs), grpc_bytes = grpc_request(inputs);
  const std::string http_file = write_text(repository.path() + "/../http", http_text);
  const std::string grpc_file = write_text(repository.path() + "/../grpc", grpc_bytes);
  const std::string http_answer = HttpClient(http.port(), http_text).ask();
  std::string grpc_answer;
  {
    GrpcClient client(grpc.port(), grpc_bytes);
    client.ask();
    grpc_answer = client.answer();
  }
  const EchoProcess http_echo("http", write_text(repository.path() + "/../http-answer", http_answer));
  const EchoProcess grpc_echo("grpc", write_text(repository.path() + "/../grpc-answer", grpc_answer));

  const auto in_engine = [&] {
    for (const auto& input : inputs) context.set_input(input.name, input.tensor);
    context.run();
  };
  Way ways[] = {{.name = "engine", .ask = in_engine},
                {.name = "in process", .ask = [&] { infer_in_process(server, inputs); }},
                {.name = "HTTP", .ask = nullptr, .client = "http", .request = http_file, .port = http.port()},
                {.name = "bare HTTP", .ask = nullptr, .client = "http", .request = http_file, .port = http_echo.port()},
                {.name = "gRPC", .ask = nullptr, .client = "grpc", .request = grpc_file, .port = grpc.port()},
                {.name = "bare gRPC", .ask = nullptr, .client = "grpc", .request = grpc_file, .port = grpc_echo.port()}};
  const auto is_wanted = [&](const Way& way) {
    return options.only.empty() || std::find(options.only.begin(), options.only.end(), way.name) != options.only.end();
  };
  for (int round = 0; round < options.rounds; ++round)
    for (Way& way : ways)
      if (is_wanted(way)) way.run(options);

  Json json = {{"model", options.model.empty() ? "negate 16 floats" : options.model},
               {"rounds", options.rounds},
               {"requests", options.requests},
               {"connections", options.connections},
               {"ways", Json::object()}};
  const double engine_us = median(ways[0].medians_us);
  fmt::print("{}; {} rounds of {} requests, {} bytes in an HTTP request, {} in its answer; {} connections for requests a second\n\n",
             json["model"].get<std::string>(), options.rounds, options.requests, http_text.size(), http_answer.size(), options.connections);
  fmt::print("| | median us | P99 us | median above the engine | requests a second |\n| --- | --: | --: | --: | --: |\n");
  for (const Way& way : ways) {
    if (way.medians_us.empty()) continue;
    const double us = median(way.medians_us), p99 = median(way.p99s_us);
    fmt::print("| {} | {:.1f} | {:.1f} | {:.1f} | {} |\n", way.name, us, p99, us - engine_us,
               way.per_second.empty() ? "" : fmt::format("{:.0f}", median(way.per_second)));
    json["ways"][way.name] = {{"median_us", us}, {"p99_us", p99}, {"above_engine_us", us - engine_us}, {"medians_us", way.medians_us}};
    if (!way.per_second.empty()) json["ways"][way.name]["per_second"] = median(way.per_second);
  }
  if (!options.json.empty()) std::ofstream(options.json) << json.dump(1) << "\n";
  http.stop(1);
  grpc.stop(std::chrono::seconds(1));
}

}  // namespace
}  // namespace tokamak::bench

int main(int argc, char** argv) {
  using namespace tokamak;
  bench::Options options;
  CLI::App app("What the server costs beside the model");
  app.add_option("model", options.model, "ONNX file or engine; without one: y = -x of 16 floats");
  app.add_option("--rounds", options.rounds, "in turns, figures are their medians")->check(CLI::PositiveNumber);
  app.add_option("--requests", options.requests, "of one client, a round and way")->check(CLI::PositiveNumber);
  app.add_option("--connections", options.connections, "of the throughput's client")->check(CLI::PositiveNumber);
  app.add_option("--seconds", options.seconds, "of throughput, a round and way")->check(CLI::PositiveNumber);
  app.add_option("--only", options.only, "these ways: engine, in process, HTTP, bare HTTP, gRPC, bare gRPC")->delimiter(',');
  app.add_option("--json", options.json, "also writes the figures to this file");
  app.add_option("--client", options.client)->group("");
  app.add_option("--port", options.port)->group("");
  app.add_option("--request", options.request)->group("");
  app.add_option("--echo", options.echo)->group("");
  CLI11_PARSE(app, argc, argv);
  try {
    if (!options.echo.empty()) bench::run_echo(options);
    else if (!options.client.empty()) bench::run_client(options);
    else bench::run(options);
  } catch (const std::exception& e) {
    std::cerr << "error: " << e.what() << "\n";
    return 1;
  }
}
