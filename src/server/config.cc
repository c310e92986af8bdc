#include "server/config.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/json_util.h>

#include <array>
#include <filesystem>

#include "base/error.h"

namespace tokamak::server {

namespace fs = std::filesystem;

namespace {

struct TypeNames {
  DType dtype;
  std::string_view name;
  inference::DataType type;
};

constexpr std::array kTypes = {
    TypeNames{DType::Bool, "BOOL", inference::TYPE_BOOL},      TypeNames{DType::U8, "UINT8", inference::TYPE_UINT8},
    TypeNames{DType::U16, "UINT16", inference::TYPE_UINT16},   TypeNames{DType::U32, "UINT32", inference::TYPE_UINT32},
    TypeNames{DType::U64, "UINT64", inference::TYPE_UINT64},   TypeNames{DType::I8, "INT8", inference::TYPE_INT8},
    TypeNames{DType::I16, "INT16", inference::TYPE_INT16},     TypeNames{DType::I32, "INT32", inference::TYPE_INT32},
    TypeNames{DType::I64, "INT64", inference::TYPE_INT64},     TypeNames{DType::F16, "FP16", inference::TYPE_FP16},
    TypeNames{DType::F32, "FP32", inference::TYPE_FP32},       TypeNames{DType::F64, "FP64", inference::TYPE_FP64},
    TypeNames{DType::String, "BYTES", inference::TYPE_STRING}, TypeNames{DType::BF16, "BF16", inference::TYPE_BF16},
};

class Collector : public google::protobuf::io::ErrorCollector {
 public:
  explicit Collector(const std::string& where) : where_(where) {}
  void AddError(int line, int column, const std::string& message) override {
    if (error.empty()) error = at(line, column, message);
  }
  void AddWarning(int line, int column, const std::string& message) override { warnings.push_back(at(line, column, message)); }

  std::string error;
  std::vector<std::string> warnings;

 private:
  std::string at(int line, int column, const std::string& message) const {
    return fmt::format("{}:{}:{}: {}", where_, line + 1, column + 1, message);
  }
  std::string where_;
};

// The backend that runs what other servers call a platform.
std::string backend_of_platform(const std::string& platform, const std::string& name) {
  if (platform == "onnxruntime_onnx") return "onnxruntime";
  if (platform == "tokamak" || platform == "onnxruntime" || platform == "python") return platform;
  if (platform == "tensorrt_plan")
    fail(ErrorCode::Unsupported, "model '{}' has platform tensorrt_plan: TensorRT's plans run on TensorRT alone; serve the ONNX file",
         name);
  if (platform == "pytorch_libtorch")
    fail(ErrorCode::Unsupported, "model '{}' has platform pytorch_libtorch: export it to ONNX, or run it from a model.py (backend: python)",
         name);
  fail(ErrorCode::InvalidArgument, "unexpected platform type '{}' for {}", platform, name);
}

std::string backend_of_file(const fs::path& file) {
  const std::string extension = file.extension().string();
  if (extension == ".onnx" || extension == ".engine" || extension == ".gguf" || extension == ".safetensors") return "tokamak";
  if (extension == ".py") return "python";
  return {};
}

std::string backend_of_folder(const fs::path& folder) {
  std::error_code ignored;
  for (const char* name : {"model.engine", "model.onnx", "model.gguf", "model.py"})
    if (fs::exists(folder / name, ignored)) return backend_of_file(name);
  if (fs::exists(folder / "config.json", ignored)) return "tokamak";  // a Hugging Face checkpoint
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (const std::string backend = backend_of_file(entry.path()); !backend.empty()) return backend;
  return {};
}

void default_backend(inference::ModelConfig& config, const std::string& version_directory) {
  if (config.has_ensemble_scheduling() || config.platform() == "ensemble") {
    if (config.platform().empty()) config.set_platform("ensemble");
    return;
  }
  if (config.backend().empty() && !config.platform().empty()) config.set_backend(backend_of_platform(config.platform(), config.name()));
  if (config.backend().empty() && !config.default_model_filename().empty())
    config.set_backend(backend_of_file(config.default_model_filename()));
  if (config.backend().empty() && !version_directory.empty()) config.set_backend(backend_of_folder(version_directory));
  if (config.backend().empty())
    fail(ErrorCode::InvalidArgument,
         "must specify 'platform' or 'backend' for '{}': its version folder has no model.onnx, model.engine, model.gguf, model.py or "
         "checkpoint (config.json)",
         config.name());
}

void default_scheduling(inference::ModelConfig& config) {
  if (config.has_dynamic_batching()) {
    auto& batching = *config.mutable_dynamic_batching();
    if (batching.preferred_batch_size().empty() && config.max_batch_size() > 0) batching.add_preferred_batch_size(config.max_batch_size());
  }
  if (config.has_sequence_batching()) {
    auto& batching = *config.mutable_sequence_batching();
    if (batching.max_sequence_idle_microseconds() == 0) batching.set_max_sequence_idle_microseconds(1'000'000);
    if (batching.has_oldest() && batching.oldest().preferred_batch_size().empty() && config.max_batch_size() > 0)
      batching.mutable_oldest()->add_preferred_batch_size(config.max_batch_size());
  }
}

void default_instances(inference::ModelConfig& config) {
  if (config.instance_group().empty()) config.add_instance_group()->set_name(config.name());
  for (int i = 0; i < config.instance_group_size(); ++i) {
    auto& group = *config.mutable_instance_group(i);
    if (group.name().empty()) group.set_name(fmt::format("{}_{}", config.name(), i));
    if (group.count() == 0) group.set_count(1);
    if (group.kind() == inference::ModelInstanceGroup::KIND_AUTO && !group.gpus().empty())
      group.set_kind(inference::ModelInstanceGroup::KIND_GPU);
  }
}

template <class Io>
TensorMetadata metadata_of(const Io& io, int max_batch_size) {
  TensorMetadata out;
  out.name = io.name();
  out.dtype = from_config_type(io.data_type()).value_or(DType::F32);
  if (max_batch_size > 0) out.shape.push_back(-1);
  out.shape.insert(out.shape.end(), io.dims().begin(), io.dims().end());
  return out;
}

}  // namespace

std::string_view datatype_name(DType dtype) {
  for (const TypeNames& entry : kTypes)
    if (entry.dtype == dtype) return entry.name;
  return "";
}

std::optional<DType> parse_datatype(std::string_view name) {
  for (const TypeNames& entry : kTypes)
    if (entry.name == name) return entry.dtype;
  return std::nullopt;
}

inference::DataType to_config_type(DType dtype) {
  for (const TypeNames& entry : kTypes)
    if (entry.dtype == dtype) return entry.type;
  return inference::TYPE_INVALID;
}

std::optional<DType> from_config_type(inference::DataType type) {
  for (const TypeNames& entry : kTypes)
    if (entry.type == type) return entry.dtype;
  return std::nullopt;
}

inference::ModelConfig parse_config(std::string_view text, const std::string& where, std::vector<std::string>& warnings) {
  google::protobuf::TextFormat::Parser parser;
  Collector collector(where);
  parser.RecordErrorsTo(&collector);
  parser.AllowUnknownField(true);
  parser.SetRecursionLimit(64);
  inference::ModelConfig config;
  if (!parser.ParseFromString(std::string(text), &config))
    fail(ErrorCode::InvalidArgument, "failed to read text proto from {}", collector.error.empty() ? where : collector.error);
  warnings.insert(warnings.end(), collector.warnings.begin(), collector.warnings.end());
  return config;
}

inference::ModelConfig parse_config_json(std::string_view json) {
  inference::ModelConfig config;
  const auto status = google::protobuf::util::JsonStringToMessage(std::string(json), &config);
  if (!status.ok()) fail(ErrorCode::InvalidArgument, "Invalid config override: {}", std::string(status.message()));
  return config;
}

void apply_defaults(inference::ModelConfig& config, const std::string& directory_name, const std::string& version_directory) {
  if (config.name().empty()) config.set_name(directory_name);
  if (config.name() != directory_name)
    fail(ErrorCode::InvalidArgument, "unexpected directory name '{}' for model '{}', directory name must equal model name", directory_name,
         config.name());
  default_backend(config, version_directory);
  if (config.version_policy().policy_choice_case() == inference::ModelVersionPolicy::POLICY_CHOICE_NOT_SET)
    config.mutable_version_policy()->mutable_latest()->set_num_versions(1);
  default_scheduling(config);
  if (!config.has_ensemble_scheduling()) default_instances(config);
}

std::vector<TensorMetadata> input_metadata(const inference::ModelConfig& config) {
  std::vector<TensorMetadata> out;
  for (const auto& io : config.input()) out.push_back(metadata_of(io, config.max_batch_size()));
  return out;
}

std::vector<TensorMetadata> output_metadata(const inference::ModelConfig& config,
                                            const std::map<std::string, std::vector<std::string>>& labels) {
  std::vector<TensorMetadata> out;
  for (const auto& io : config.output()) {
    out.push_back(metadata_of(io, config.max_batch_size()));
    if (const auto it = labels.find(io.name()); it != labels.end()) out.back().labels = it->second;
  }
  return out;
}

}  // namespace tokamak::server
