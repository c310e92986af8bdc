#pragma once
// Models for the KServe front end, told apart by the `backend` of their config: nothing here computes.

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "server/config.h"
#include "server/model_loader.h"
#include "server/statistics.h"

namespace tokamak::test {

inline std::atomic<int> g_num_cancelled = 0;

// backend "identity": output i is input i. "repeat": decoupled; IN [n] comes back as n responses OUT [1], "fail_last" makes the last one an
// error, "delay_ms" waits before each. "slow": answers when the request is cancelled, or after 5 s.
class KserveModel : public server::Model {
 public:
  explicit KserveModel(const server::LoadArgs& args)
      : name_(args.name),
        version_(args.version),
        platform_(args.config.backend()),
        config_(args.config),
        inputs_(server::input_metadata(config_)),
        outputs_(server::output_metadata(config_, args.labels)),
        statistics_(args.statistics) {}

  const std::string& name() const override { return name_; }
  int64_t version() const override { return version_; }
  const std::string& platform() const override { return platform_; }
  const inference::ModelConfig& config() const override { return config_; }
  const std::vector<server::TensorMetadata>& inputs() const override { return inputs_; }
  const std::vector<server::TensorMetadata>& outputs() const override { return outputs_; }
  bool is_decoupled() const override { return platform_ == "repeat"; }
  server::ModelStatistics& statistics() override { return *statistics_; }

  void infer(std::unique_ptr<server::InferRequest> request) override {
    std::shared_ptr<server::InferRequest> shared = std::move(request);
    if (platform_ == "repeat") {
      std::thread([this, shared] { repeat(*shared); }).detach();
    } else if (platform_ == "slow") {
      std::thread([this, shared] { wait(*shared); }).detach();
    } else {
      const int64_t now = server::steady_now_ns();
      server::InferResponse response = response_to(*shared);
      for (size_t i = 0; i < shared->inputs.size(); ++i) {
        const std::string& output = i < outputs_.size() ? outputs_[i].name : shared->inputs[i].name;
        if (is_wanted(*shared, output)) response.outputs.push_back({output, shared->inputs[i].tensor});
      }
      response.parameters = shared->parameters;
      if (response.parameters.erase("ask_cancelled") > 0) response.parameters["num_cancelled"] = int64_t{g_num_cancelled};
      if (shared->sequence) response.parameters["seen_sequence"] = static_cast<int64_t>(shared->sequence.number);
      statistics_->record_success(1, {now, now, now, now, now, now, now});
      shared->on_response(std::move(response));
    }
  }

 private:
  static bool is_wanted(const server::InferRequest& request, const std::string& output) {
    for (const auto& requested : request.outputs)
      if (requested.name == output) return true;
    return request.outputs.empty();
  }

  server::InferResponse response_to(const server::InferRequest& request) const {
    return {.model_name = name_, .model_version = version_, .id = request.id};
  }

  void repeat(server::InferRequest& request) const {
    int64_t delay_ms = 0;
    bool fails = false;
    if (const auto it = request.parameters.find("delay_ms"); it != request.parameters.end()) delay_ms = std::get<int64_t>(it->second);
    if (const auto it = request.parameters.find("fail_last"); it != request.parameters.end()) fails = std::get<bool>(it->second);
    const Tensor in = request.inputs.empty() ? Tensor::empty(DType::I32, {0}) : request.inputs[0].tensor;
    for (int64_t i = 0; i < in.count(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
      if (request.cancellation->is_cancelled()) {
        ++g_num_cancelled;
        break;
      }
      server::InferResponse response = response_to(request);
      response.is_final = false;
      if (fails && i + 1 == in.count()) {
        response.error_code = ErrorCode::Internal;
        response.error = "the last one fails";
      } else {
        response.outputs.push_back({"OUT", Tensor::of<int32_t>({1}, {in.data<int32_t>()[i]})});
      }
      request.on_response(std::move(response));
    }
    server::InferResponse last = response_to(request);
    last.is_empty = true;
    request.on_response(std::move(last));
  }

  void wait(server::InferRequest& request) const {
    for (int i = 0; i < 500 && !request.cancellation->is_cancelled(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    if (request.cancellation->is_cancelled()) {
      ++g_num_cancelled;
      server::respond_error(request, ErrorCode::Cancelled, "cancelled");
    } else {
      request.on_response(response_to(request));
    }
  }

  std::string name_;
  int64_t version_;
  std::string platform_;
  inference::ModelConfig config_;
  std::vector<server::TensorMetadata> inputs_, outputs_;
  std::shared_ptr<server::ModelStatistics> statistics_;
};

inline std::shared_ptr<server::Model> load_kserve_model(const server::LoadArgs& args) { return std::make_shared<KserveModel>(args); }

// A repository in `folder` with one model of each kind.
inline void write_kserve_repository(const std::filesystem::path& folder) {
  const auto put = [&](const std::string& name, const std::string& config) {
    std::filesystem::create_directories(folder / name / "1");
    std::ofstream(folder / name / "config.pbtxt") << config;
    std::ofstream(folder / name / "1" / "model.any") << "any";
  };
  const auto io = [](const std::string& kind, const std::string& name, const std::string& type, const std::string& dims) {
    return kind + " { name: \"" + name + "\" data_type: " + type + " dims: [" + dims + "] }\n";
  };
  for (const std::string type :
       {"BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "STRING"})
    put("identity_" + type, "backend: \"identity\"\nmax_batch_size: 8\n" + io("input", "INPUT0", "TYPE_" + type, "-1") +
                                io("output", "OUTPUT0", "TYPE_" + type, "-1"));
  put("identity_two", "backend: \"identity\"\n" + io("input", "INPUT0", "TYPE_FP32", "-1") + io("input", "INPUT1", "TYPE_INT32", "-1") +
                          io("output", "OUTPUT0", "TYPE_FP32", "-1") + io("output", "OUTPUT1", "TYPE_INT32", "-1"));
  put("identity_2d",
      "backend: \"identity\"\n" + io("input", "INPUT0", "TYPE_FP32", "-1, -1") + io("output", "OUTPUT0", "TYPE_FP32", "-1, -1"));
  put("text", "backend: \"identity\"\n" + io("input", "TEXT", "TYPE_STRING", "1") + io("output", "TEXT_OUT", "TYPE_STRING", "1"));
  put("repeat", "backend: \"repeat\"\nmodel_transaction_policy { decoupled: true }\n" + io("input", "IN", "TYPE_INT32", "-1") +
                    io("output", "OUT", "TYPE_INT32", "1"));
  put("slow", "backend: \"slow\"\n" + io("input", "INPUT0", "TYPE_FP32", "-1") + io("output", "OUTPUT0", "TYPE_FP32", "-1"));
}

}  // namespace tokamak::test
