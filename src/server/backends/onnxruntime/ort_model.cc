#include "server/backends/onnxruntime/ort_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "server/backends/support.h"

namespace tokamak::backends::onnxruntime {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

struct Type {
  tkb_dtype dtype;
  OrtElementType element_type;
  const char* config_name;
};
constexpr Type kTypes[] = {{TKB_F32, 1, "TYPE_FP32"},   {TKB_F16, 10, "TYPE_FP16"},   {TKB_BF16, 16, "TYPE_BF16"},
                           {TKB_F64, 11, "TYPE_FP64"},  {TKB_I8, 3, "TYPE_INT8"},     {TKB_I16, 5, "TYPE_INT16"},
                           {TKB_I32, 6, "TYPE_INT32"},  {TKB_I64, 7, "TYPE_INT64"},   {TKB_U8, 2, "TYPE_UINT8"},
                           {TKB_U16, 4, "TYPE_UINT16"}, {TKB_U32, 12, "TYPE_UINT32"}, {TKB_U64, 13, "TYPE_UINT64"},
                           {TKB_BOOL, 9, "TYPE_BOOL"},  {TKB_BYTES, 8, "TYPE_STRING"}};

std::map<std::string, std::string> settings_of(const tkb_model_args& args, const Json& config) {
  std::map<std::string, std::string> result;
  for (size_t i = 0; i < args.num_settings; ++i) result[args.settings[i].key] = args.settings[i].value;
  const Json parameters = config.value("parameters", Json::object());
  for (const auto& [name, value] : parameters.items()) result[name] = value.value("string_value", "");
  return result;
}

std::string find_file(const tkb_model_args& args) {
  const std::string name = *args.file_name ? args.file_name : "model.onnx";
  fs::path path = fs::path(args.version_folder) / name;
  if (fs::is_directory(path)) path /= "model.onnx";  // with its external data
  if (!fs::exists(path)) fail(ErrorCode::NotFound, "'{}' has no {}", args.version_folder, name);
  return path.string();
}

// Of the first instance, as the server plans it.
Device first_device(const Json& config, const std::map<std::string, std::string>& settings) {
  const Json groups = config.value("instance_group", Json::array());
  const Json group = groups.empty() ? Json::object() : groups[0];
  const std::string kind = group.value("kind", "KIND_AUTO");
  const Json gpus = group.value("gpus", Json::array());
  const auto device = settings.find("device");
  const bool has_gpu = device != settings.end() && device->second.starts_with("cuda");
  const bool is_gpu = kind == "KIND_GPU" || (kind == "KIND_AUTO" && (has_gpu || !gpus.empty()));
  return {.is_gpu = is_gpu, .gpu = is_gpu && !gpus.empty() ? gpus[0].get<int>() : 0};
}

// What the config says about a tensor; null when nothing.
const Json* find_io(const Json& config, const char* list, const std::string& name) {
  const auto ios = config.find(list);
  if (ios == config.end()) return nullptr;
  for (const Json& io : *ios)
    if (io.value("name", "") == name) return &io;
  return nullptr;
}

// The rank that the config gives a tensor of the model, 0 when it does not.
size_t configured_rank(const Json& config, const Json& io) {
  const Json& dims = io.contains("reshape") ? io["reshape"].at("shape") : io.at("dims");
  return dims.empty() ? 0 : dims.size() + (config.value("max_batch_size", 0) > 0);
}

bool starts_with_any(const std::string& name, std::initializer_list<const char*> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const char* prefix) { return name.starts_with(prefix); });
}

}  // namespace

std::optional<tkb_dtype> dtype_of(OrtElementType type) {
  for (const Type& t : kTypes)
    if (t.element_type == type) return t.dtype;
  return std::nullopt;
}

OrtElementType element_type_of(tkb_dtype dtype) {
  return std::find_if(std::begin(kTypes), std::end(kTypes), [dtype](const Type& t) { return t.dtype == dtype; })->element_type;
}

OrtModel::OrtModel(const tkb_server& server, const tkb_model_args& args)
    : server_(server),
      name_(args.name),
      config_(Json::parse(args.config_json)),
      settings_(settings_of(args, config_)),
      library_(open_library(server, find_setting(args, "library") ? find_setting(args, "library") : "")),
      path_(find_file(args)),
      first_device_(first_device(config_, settings_)),
      first_session_(open(first_device_)) {
  description_ = describe(first_session_.get());
}

std::string OrtModel::setting(const std::string& name) const {
  const auto found = settings_.find(name);
  return found == settings_.end() ? "" : found->second;
}

int64_t OrtModel::integer(const std::string& name, int64_t otherwise) const {
  const std::string text = setting(name);
  if (text.empty()) return otherwise;
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0)
    fail(ErrorCode::InvalidArgument, "parameter '{}' is '{}', expected a whole number that is not negative", name, text);
  return value;
}

void OrtModel::set_options(OrtSessionOptions* options) const {
  const OrtApi& api = library_.api;
  library_.check(api.SetIntraOpNumThreads(options, static_cast<int>(integer("intra_op_thread_count", 0))));
  library_.check(api.SetInterOpNumThreads(options, static_cast<int>(integer("inter_op_thread_count", 0))));
  const int64_t mode = integer("execution_mode", 0);
  if (mode > 1) fail(ErrorCode::InvalidArgument, "parameter 'execution_mode' is {}, expected 0 (sequential) or 1 (parallel)", mode);
  library_.check(api.SetSessionExecutionMode(options, mode == 1 ? kOrtParallel : kOrtSequential));
  if (integer("enable_mem_arena", 1) == 0) library_.check(api.DisableCpuMemArena(options));
  if (integer("enable_mem_pattern", 1) == 0) library_.check(api.DisableMemPattern(options));
  const int level = config_.value("optimization", Json::object()).value("graph", Json::object()).value("level", 0);
  library_.check(api.SetSessionGraphOptimizationLevel(options, level == -1  ? kOrtEnableBasic
                                                               : level == 1 ? kOrtEnableExtended
                                                               : level == 2 ? kOrtDisableAll
                                                                            : kOrtEnableAll));
  for (const auto& [name, value] : settings_)
    if (starts_with_any(name, {"session.", "optimization."}))
      library_.check(api.AddSessionConfigEntry(options, name.c_str(), value.c_str()));
}

void OrtModel::append_cuda(OrtSessionOptions* options, int gpu) const {
  const OrtApi& api = library_.api;
  const std::vector<std::string> providers = library_.providers();
  if (std::find(providers.begin(), providers.end(), "CUDAExecutionProvider") == providers.end())
    fail(
        ErrorCode::Unsupported,
        "model '{}' has an instance on GPU {}, and the ONNX Runtime library '{}' has no CUDAExecutionProvider (it has {}): use the library "
        "of onnxruntime-gpu, or say instance_group {{ kind: KIND_CPU }}",
        name_, gpu, library_.path, fmt::join(providers, ", "));
  std::map<std::string, std::string> own = {{"device_id", std::to_string(gpu)}};
  const Json accelerators = config_.value("optimization", Json::object()).value("execution_accelerators", Json::object());
  for (const Json& accelerator : accelerators.value("gpu_execution_accelerator", Json::array())) {
    if (accelerator.at("name") != "cuda")
      fail(ErrorCode::Unsupported, "model '{}' asks for the execution accelerator '{}': on a GPU this backend has 'cuda'", name_,
           accelerator.at("name").get<std::string>());
    for (const auto& [key, value] : accelerator.at("parameters").items()) own[key] = value.get<std::string>();
  }
  std::vector<const char*> keys, values;
  for (const auto& [key, value] : own) {
    keys.push_back(key.c_str());
    values.push_back(value.c_str());
  }
  OrtCUDAProviderOptionsV2* raw = nullptr;
  library_.check(api.CreateCUDAProviderOptions(&raw));
  const Owned<OrtCUDAProviderOptionsV2> cuda(raw, api.ReleaseCUDAProviderOptions);
  library_.check(api.UpdateCUDAProviderOptions(raw, keys.data(), values.data(), keys.size()));
  library_.check(api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, raw));
}

Owned<OrtSession> OrtModel::open(const Device& device) const {
  const OrtApi& api = library_.api;
  OrtSessionOptions* raw_options = nullptr;
  library_.check(api.CreateSessionOptions(&raw_options));
  const Owned<OrtSessionOptions> options(raw_options, api.ReleaseSessionOptions);
  set_options(raw_options);
  if (device.is_gpu) append_cuda(raw_options, device.gpu);
  OrtSession* session = nullptr;
  library_.check(api.CreateSession(library_.env, path_.c_str(), raw_options, &session));
  return {session, api.ReleaseSession};
}

Owned<OrtSession> OrtModel::make_session(const tkb_instance_args& args) {
  const Device device = {.is_gpu = args.is_gpu != 0, .gpu = args.is_gpu ? args.gpu : 0};
  if (args.index == 0) {
    const std::lock_guard lock(mutex_);
    Owned<OrtSession> first = std::move(first_session_);
    if (first && device == first_device_) return first;
  }
  return open(device);
}

Owned<OrtRunOptions> OrtModel::make_run_options() const {
  OrtRunOptions* options = nullptr;
  library_.check(library_.api.CreateRunOptions(&options));
  Owned<OrtRunOptions> owned(options, library_.api.ReleaseRunOptions);
  library_.check(library_.api.RunOptionsSetRunLogSeverityLevel(options, kOrtFatal));  // what goes wrong is the answer; no line a request
  for (const auto& [name, value] : settings_)
    if (name.starts_with("memory.")) library_.check(library_.api.AddRunConfigEntry(options, name.c_str(), value.c_str()));
  return owned;
}

std::optional<OrtModel::Tensor> OrtModel::read_tensor(std::string name, const OrtTypeInfo& info, const char* list, std::string& why) const {
  const OrtApi& api = library_.api;
  OrtOnnxType kind = kOrtTensor;
  library_.check(api.GetOnnxTypeFromTypeInfo(&info, &kind));
  if (kind != kOrtTensor) {
    why = fmt::format("'{}' is no tensor but a sequence, a map or optional", name);
    return std::nullopt;
  }
  const OrtTensorTypeAndShapeInfo* tensor_info = nullptr;
  library_.check(api.CastTypeInfoToTensorInfo(&info, &tensor_info));
  OrtElementType type = 0;
  library_.check(api.GetTensorElementType(tensor_info, &type));
  const std::optional<tkb_dtype> dtype = dtype_of(type);
  if (!dtype) {
    why = fmt::format("'{}' has elements of ONNX's data type {}", name, type);
    return std::nullopt;
  }
  Tensor tensor{.name = std::move(name), .first_symbol = "", .dtype = *dtype, .shape = {}};
  size_t rank = 0;
  library_.check(api.GetDimensionsCount(tensor_info, &rank));
  tensor.shape.resize(rank);
  if (rank > 0) {
    library_.check(api.GetDimensions(tensor_info, tensor.shape.data(), rank));
    std::vector<const char*> symbols(rank, nullptr);
    library_.check(api.GetSymbolicDimensions(tensor_info, symbols.data(), rank));
    if (symbols[0]) tensor.first_symbol = symbols[0];
  } else if (const Json* io = find_io(config_, list, tensor.name)) {
    // ONNX Runtime tells a shape that it does not know as that of a scalar: then the config's word is taken.
    tensor.shape.assign(configured_rank(config_, *io), -1);
  }
  return tensor;
}

std::string OrtModel::describe(OrtSession* session) const {
  const OrtApi& api = library_.api;
  using GetName = OrtStatus* (*)(const OrtSession*, size_t, OrtAllocator*, char**);
  using GetInfo = OrtStatus* (*)(const OrtSession*, size_t, OrtTypeInfo**);
  const auto read = [&](size_t i, const char* list, GetName get_name, GetInfo get_info, std::string& why) {
    char* name = nullptr;
    library_.check(get_name(session, i, library_.allocator, &name));
    std::string own_name = name;
    library_.check(api.AllocatorFree(library_.allocator, name));
    OrtTypeInfo* info = nullptr;
    library_.check(get_info(session, i, &info));
    const Owned<OrtTypeInfo> owned(info, api.ReleaseTypeInfo);
    return read_tensor(std::move(own_name), *info, list, why);
  };
  Json json = {{"inputs", Json::array()}, {"outputs", Json::array()}};
  bool can_batch = true;
  const auto add = [&](const char* list, const Tensor& tensor, bool is_optional) {
    const char* type =
        std::find_if(std::begin(kTypes), std::end(kTypes), [&](const Type& t) { return t.dtype == tensor.dtype; })->config_name;
    json[list].push_back({{"name", tensor.name}, {"data_type", type}, {"shape", tensor.shape}, {"optional", is_optional}});
    if (!is_optional) can_batch &= !tensor.shape.empty() && tensor.shape[0] == -1;
  };

  size_t count = 0;
  std::string why, symbol;
  library_.check(api.SessionGetInputCount(session, &count));
  can_batch = count > 0;
  for (size_t i = 0; i < count; ++i) {
    const auto tensor = read(i, "input", api.SessionGetInputName, api.SessionGetInputTypeInfo, why);
    if (!tensor) fail(ErrorCode::Unsupported, "model '{}': input {}, which no client can send", name_, why);
    add("inputs", *tensor, false);
    // Axes that the exporter gave different names are not all rows. Those of outputs often have made-up names.
    if (symbol.empty()) symbol = tensor->first_symbol;
    can_batch &= tensor->first_symbol.empty() || tensor->first_symbol == symbol;
  }
  library_.check(api.SessionGetOverridableInitializerCount(session, &count));
  for (size_t i = 0; i < count; ++i) {
    const auto tensor = read(i, "input", api.SessionGetOverridableInitializerName, api.SessionGetOverridableInitializerTypeInfo, why);
    if (tensor && find_io(config_, "input", tensor->name)) add("inputs", *tensor, true);
  }
  library_.check(api.SessionGetOutputCount(session, &count));
  for (size_t i = 0; i < count; ++i) {
    const auto tensor = read(i, "output", api.SessionGetOutputName, api.SessionGetOutputTypeInfo, why);
    if (tensor) add("outputs", *tensor, false);
    else server_.log(1, fmt::format("model '{}': output {}, which no client can receive: it is left out", name_, why).c_str());
  }
  if (json["outputs"].empty()) fail(ErrorCode::Unsupported, "model '{}' has no output that a client can receive: {}", name_, why);
  json["can_batch"] = can_batch;
  return json.dump();
}

}  // namespace tokamak::backends::onnxruntime
