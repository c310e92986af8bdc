#pragma once
// A server whose models do what a test's functions say, on threads of the test, so that ensembles of them can be watched.

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "server/executed_model.h"
#include "server/request_check.h"
#include "server/server.h"
#include "server/work_queue.h"
#include "tests/server/fake_backend.h"
#include "tests/server/fake_model.h"

namespace tokamak::server::test {

using Script = std::function<void(std::unique_ptr<InferRequest>)>;

// Checks requests as a real model does, then hands them to the script.
class ScriptedModel : public tokamak::test::FakeModel {
 public:
  ScriptedModel(const LoadArgs& args, std::atomic<int>* num_live, Script script)
      : FakeModel(args, num_live), rules_(args.config), script_(std::move(script)) {}
  bool is_decoupled() const override { return config().model_transaction_policy().decoupled(); }
  void infer(std::unique_ptr<InferRequest> request) override {
    try {
      check_request(rules_, *request);
    } catch (const Error& e) {
      respond_error(*request, e.code(), e.what());
      return;
    }
    script_(std::move(request));
  }

 private:
  RequestRules rules_;
  Script script_;
};

// Models without a script: backend "fake" (fake_backend.h), and ensembles.
class ScriptedServer : public tokamak::test::RepositoryTest {
 protected:
  void SetUp() override {
    RepositoryTest::SetUp();
    add_backend("fake", FakeBackend::entry);
    fake.reset();
    workers = std::make_unique<WorkQueue>(4);
  }
  void TearDown() override {
    fake.open();
    server.reset();
    workers.reset();
    fake.reset();
    RepositoryTest::TearDown();
  }

  Server& open(ServerOptions options = {}) {
    options.repository.paths = {path()};
    options.metrics.gpu = options.metrics.cpu = false;
    options.loader = [this](const LoadArgs& args) -> std::shared_ptr<Model> {
      const auto script = scripts.find(args.name);
      if (script == scripts.end()) return load_model(args);
      return std::make_shared<ScriptedModel>(args, &num_live_, script->second);
    };
    server = std::make_unique<Server>(std::move(options));
    failures = server->start();
    return *server;
  }
  void put_script(const std::string& name, const std::string& config, Script script) {
    put_model(name, "backend: \"fake\" " + config);
    scripts[name] = std::move(script);
  }
  // Of one response: the outputs of `compute`, from another thread.
  using Compute = std::function<std::vector<NamedTensor>(const InferRequest&)>;
  Script answer(Compute compute) {
    return [this, compute](std::unique_ptr<InferRequest> request) {
      workers->post([compute, request = std::shared_ptr<InferRequest>(std::move(request))] {
        InferResponse response{.model_name = request->model_name, .model_version = request->model_version, .id = request->id};
        response.outputs = compute(*request);
        request->on_response(std::move(response));
      });
    };
  }
  // int32 of one element more than IN's, for each name.
  static NamedTensor plus(const InferRequest& request, const std::string& name, int32_t more) {
    const Tensor& in = request.inputs.at(0).tensor;
    std::vector<int32_t> values;
    for (int64_t i = 0; i < in.count(); ++i) values.push_back(static_cast<int32_t>(in.int_at(i)) + more);
    return {.name = name, .tensor = Tensor::of<int32_t>(in.shape(), values)};
  }
  Answer send(const std::string& model, std::unique_ptr<InferRequest> request) {
    return Answer(*server->find_model(model), std::move(request));
  }

  FakeBackend& fake = FakeBackend::get();
  std::unique_ptr<WorkQueue> workers;
  std::map<std::string, Script> scripts;
  std::unique_ptr<Server> server;
  std::vector<std::pair<std::string, std::string>> failures;  // of open()
};

// int32 vectors by name.
inline std::unique_ptr<InferRequest> ints(std::vector<std::pair<std::string, std::vector<int32_t>>> inputs) {
  auto request = std::make_unique<InferRequest>();
  for (auto& [name, values] : inputs)
    request->inputs.push_back({.name = name, .tensor = Tensor::of<int32_t>({static_cast<int64_t>(values.size())}, values)});
  return request;
}

inline std::string io(const char* kind, const std::string& name, const std::string& dims = "-1", const std::string& more = "") {
  return fmt::format("{} {{ name: \"{}\" data_type: TYPE_INT32 dims: [ {} ] {} }} ", kind, name, dims, more);
}
inline std::string map(const char* kind, const std::string& key, const std::string& value) {
  return fmt::format("{}_map {{ key: \"{}\" value: \"{}\" }} ", kind, key, value);
}
inline std::string step(const std::string& model, const std::string& maps) {
  return fmt::format("step {{ model_name: \"{}\" model_version: -1 {} }} ", model, maps);
}
inline std::string ensemble(const std::string& ios, const std::string& steps) {
  return fmt::format("platform: \"ensemble\" {} ensemble_scheduling {{ {} }} ", ios, steps);
}

using Values = std::vector<int64_t>;

inline const std::string kInOut = io("input", "IN") + io("output", "OUT");

inline Values values_of(const InferResponse& response, const std::string& output) {
  for (const NamedTensor& tensor : response.outputs)
    if (tensor.name == output) return tensor.tensor.to_ints();
  ADD_FAILURE() << "no output " << output << ": " << response.error;
  return {};
}

inline InferResponse reply(const InferRequest& request, std::vector<NamedTensor> outputs, bool is_final = true) {
  InferResponse response{.model_name = request.model_name, .model_version = request.model_version, .id = request.id};
  response.outputs = std::move(outputs);
  response.is_final = is_final;
  return response;
}

// x, split into x + 1 and x + 2; these + 10 and + 20; the two added up.
class Ensembles : public ScriptedServer {
 protected:
  void put_diamond(const std::string& more = "") {
    put_script("split", io("input", "IN") + io("output", "LEFT") + io("output", "RIGHT"), answer([](const InferRequest& r) {
                 return std::vector{plus(r, "LEFT", 1), plus(r, "RIGHT", 2)};
               }));
    put_script("ten", kInOut, answer([](const InferRequest& r) { return std::vector{plus(r, "OUT", 10)}; }));
    put_script("twenty", kInOut, answer([](const InferRequest& r) { return std::vector{plus(r, "OUT", 20)}; }));
    put_script("add", io("input", "A") + io("input", "B") + io("output", "SUM"), answer([](const InferRequest& r) {
                 const Tensor &a = r.inputs[0].tensor, &b = r.inputs[1].tensor;
                 std::vector<int32_t> sum;
                 for (int64_t i = 0; i < a.count(); ++i) sum.push_back(static_cast<int32_t>(a.int_at(i) + b.int_at(i)));
                 return std::vector{NamedTensor{.name = "SUM", .tensor = Tensor::of<int32_t>(a.shape(), sum)}};
               }));
    put_model("diamond",
              ensemble(io("input", "x") + io("output", "sum") + io("output", "right"),
                       step("add", map("input", "A", "left") + map("input", "B", "right") + map("output", "SUM", "sum")) +
                           step("ten", map("input", "IN", "l") + map("output", "OUT", "left")) +
                           step("twenty", map("input", "IN", "r") + map("output", "OUT", "right")) +
                           step("split", map("input", "IN", "x") + map("output", "LEFT", "l") + map("output", "RIGHT", "r")) + more));
  }
  // Ensemble `name` of one step.
  void put_single(const std::string& name, const std::string& ios, const std::string& member, const std::string& more = "") {
    put_model(name, ensemble(ios, step(member, map("input", "IN", "x") + map("output", "OUT", "y")) + more));
  }
  ModelStatistics::Totals totals(const std::string& model) { return server->find_model(model)->statistics().totals(); }
};

}  // namespace tokamak::server::test
