#pragma once
// A repository of models without files: a language model that draws words by a hash of what came before, and an encoder.

#include <fstream>
#include <map>
#include <sstream>

#include "model_config.pb.h"
#include "server/llm_model.h"
#include "server/model.h"
#include "server/openai/service.h"
#include "tests/llm/fake_model.h"
#include "tests/server/openai/fake_responder.h"

namespace tokamak::server {

inline std::string read_example(const std::string& name) {
  std::ifstream file(std::string(TOKAMAK_SOURCE_DIR) + "/examples/models/llama3-docs-6m/" + name);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class FakeServedModel : public Model {
 public:
  explicit FakeServedModel(std::string name) : name_(std::move(name)) {}
  const std::string& name() const override { return name_; }
  int64_t version() const override { return 1; }
  const std::string& platform() const override { return platform_; }
  const inference::ModelConfig& config() const override { return config_; }
  const std::vector<TensorMetadata>& inputs() const override { return inputs_; }
  const std::vector<TensorMetadata>& outputs() const override { return outputs_; }
  bool is_decoupled() const override { return false; }
  void infer(std::unique_ptr<InferRequest> request) override { respond_error(*request, ErrorCode::Unsupported, "a fake"); }
  ModelStatistics& statistics() override { throw std::logic_error("a fake has no statistics"); }

 protected:
  std::string name_, platform_ = "tokamak";
  inference::ModelConfig config_;
  std::vector<TensorMetadata> inputs_, outputs_;
};

// A model that can be told to wait before a step, so that a test decides when things happen.
class GatedModel final : public llm::StepModel {
 public:
  explicit GatedModel(const llm::FakeModelOptions& options) : model_(options) {}
  const llm::ModelConfig& config() const override { return model_.config(); }
  int num_blocks() const override { return model_.num_blocks(); }
  void run(const llm::StepBatch& batch) override {
    {
      std::unique_lock lock(mutex_);
      opened_.wait(lock, [&] { return permits_ != 0; });
      if (permits_ > 0) --permits_;
    }
    model_.run(batch);
    ++num_steps;
  }
  std::span<const float> logits(int row) const override { return model_.logits(row); }
  void copy_block(int src, int dst) override { model_.copy_block(src, dst); }

  // That many steps more may run; -1: any number.
  void allow(int steps) {
    const std::lock_guard lock(mutex_);
    permits_ = steps < 0 ? -1 : std::max(permits_, 0) + steps;
    opened_.notify_all();
  }

  std::atomic<int> num_steps = 0;

 private:
  llm::FakeModel model_;
  std::mutex mutex_;
  std::condition_variable opened_;
  int permits_ = -1;
};

class FakeLlm final : public FakeServedModel {
 public:
  explicit FakeLlm(std::string name, std::string chat_template = {}, llm::FakeModelOptions options = {}, llm::LlmOptions llm_options = {})
      : FakeServedModel(name) {
    options.vocab_size = 4096;
    auto gated = std::make_unique<GatedModel>(options);
    gate = gated.get();
    auto engine =
        std::make_unique<llm::LlmEngine>(std::move(gated), llm_options, nullptr, llm::Tokenizer::from_json(read_example("tokenizer.json")));
    model_ =
        std::make_unique<LlmModel>(std::move(name), std::move(engine), read_example("tokenizer_config.json"), std::move(chat_template));
  }
  LlmModel* llm() override { return model_.get(); }

  GatedModel* gate;

 private:
  std::unique_ptr<LlmModel> model_;
};

// Token id t at place i becomes the vector (t, i, 1), one a token.
class FakeEncoder final : public FakeServedModel {
 public:
  explicit FakeEncoder(std::string name, int max_batch = 2) : FakeServedModel(std::move(name)) {
    config_.set_max_batch_size(max_batch);
    inputs_ = {{.name = "input_ids", .dtype = DType::I64, .shape = {-1, -1}},
               {.name = "attention_mask", .dtype = DType::I32, .shape = {-1, -1}}};
    outputs_ = {{.name = "hidden", .dtype = DType::F32, .shape = {-1, -1, 3}}};
  }
  void infer(std::unique_ptr<InferRequest> request) override {
    const Tensor& ids = request->inputs.at(0).tensor;
    batches.push_back(ids.shape());
    Tensor out = Tensor::empty(DType::F32, {ids.dim(0), ids.dim(1), 3});
    for (int64_t i = 0; i < ids.count(); ++i) {
      // What the mask leaves out must not count.
      const bool counts = request->inputs.at(1).tensor.data<int32_t>()[i] == 1;
      out.data<float>()[3 * i] = counts ? static_cast<float>(ids.data<int64_t>()[i]) : 1e6f;
      out.data<float>()[3 * i + 1] = static_cast<float>(i % ids.dim(1));
      out.data<float>()[3 * i + 2] = 1;
    }
    InferResponse response{.model_name = name_};
    response.outputs.push_back({.name = "hidden", .tensor = out});
    request->on_response(std::move(response));
  }
  std::vector<Shape> batches;
};

// The endpoints over such a repository.
struct FakeServer {
  explicit FakeServer(std::vector<std::shared_ptr<Model>> models, openai::OpenAiOptions options = {}) {
    options.list_models = [models] { return models; };
    options.find_model = [models](const std::string& name) {
      for (const auto& model : models)
        if (model->name() == name) return model;
      fail(ErrorCode::NotFound, "no model '{}'", name);
    };
    service = std::make_shared<openai::Service>(std::move(options));
  }

  using Method = openai::Service::Method;
  std::shared_ptr<FakeResponder> start(Method method, std::string body, std::vector<http::Header> headers = {},
                                       std::vector<std::string> captures = {}, bool is_guarded = true) const {
    auto request = std::make_shared<http::Request>();
    request->method = "POST";
    const auto* bytes = reinterpret_cast<const std::byte*>(body.data());
    request->body = std::make_shared<std::vector<std::byte>>(bytes, bytes + body.size());
    request->headers = std::move(headers);
    request->captures = std::move(captures);
    request->received_ns = std::chrono::steady_clock::now().time_since_epoch().count();
    auto responder = std::make_shared<FakeResponder>();
    service->handler(method, is_guarded)(std::move(request), responder);
    return responder;
  }
  std::shared_ptr<FakeResponder> ask(Method method, const nlohmann::json& body) const {
    auto responder = start(method, body.dump());
    if (!responder->wait()) throw std::runtime_error("no answer");
    return responder;
  }
  std::shared_ptr<FakeResponder> complete(const nlohmann::json& body) const { return ask(&openai::Service::completions, body); }
  std::shared_ptr<FakeResponder> chat(const nlohmann::json& body) const { return ask(&openai::Service::chat_completions, body); }

  std::shared_ptr<openai::Service> service;
};

}  // namespace tokamak::server
