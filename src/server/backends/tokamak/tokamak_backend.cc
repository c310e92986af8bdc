// The backend "tokamak": engines, and ONNX models and checkpoints that are built at load. Linked with the server; uses the same ABI as any
// other.

#include <nlohmann/json.hpp>

#include "builder/device.h"
#include "runtime/execution_context.h"
#include "server/backends/support.h"
#include "server/backends/tokamak/engine_model.h"
#include "server/backends/tokamak/language_model.h"
#include "server/backends/tokamak/model_files.h"

namespace tokamak::backends {

namespace {

const tkb_server* server = nullptr;

struct LoadedModel {
  std::shared_ptr<const Engine> engine;
  std::unique_ptr<LanguageModel> language_model;  // null for other engines
  std::string description;
  int max_plans = 32;
  std::vector<int64_t> batch_sizes;  // to pad to
};

// What the config says, or the server will say for it.
int64_t max_batch_size_of(const nlohmann::json& config, const Parameters& parameters) {
  const int64_t said = config.value("max_batch_size", 0);
  return said > 0 ? said : parameters.integer("default-max-batch-size", 4);
}

// Parameter pad_batches: on GPUs unless it says no.
std::vector<int64_t> batch_sizes_of(const nlohmann::json& config, const Parameters& parameters, const Engine& engine) {
  const int64_t max_batch_size = max_batch_size_of(config, parameters);
  if (!parameters.flag("pad_batches", engine.is_cuda()) || max_batch_size < 1) return {};
  std::vector<int64_t> preferred;
  if (const auto batching = config.find("dynamic_batching"); batching != config.end())
    preferred = batching->value("preferred_batch_size", preferred);
  return padded_batch_sizes(max_batch_size, preferred);
}

struct LoadedInstance {
  LanguageModel* language_model = nullptr;  // or
  std::unique_ptr<EngineInstance> engine;
};

LoadedModel& of(tkb_model* model) { return *reinterpret_cast<LoadedModel*>(model); }

// "cpu", or "cuda" with the ordinal of the first GPU that the config names.
std::string device_of(const nlohmann::json& config, const Parameters& parameters) {
  const std::string fallback = parameters.text("device", "cpu");
  for (const auto& group : config.value("instance_group", nlohmann::json::array())) {
    const std::string kind = group.value("kind", "KIND_AUTO");
    if (kind == "KIND_CPU") return "cpu";
    const auto gpus = group.value("gpus", nlohmann::json::array());
    if (kind == "KIND_GPU" || !gpus.empty()) return gpus.empty() ? "cuda" : fmt::format("cuda:{}", gpus[0].get<int>());
  }
  return fallback;
}

tkb_error* load(const tkb_model_args* args, tkb_model** result) {
  return guarded(*server, [&] {
    const nlohmann::json config = nlohmann::json::parse(args->config_json);
    std::map<std::string, std::string> settings;
    for (size_t i = 0; i < args->num_settings; ++i) settings[args->settings[i].key] = args->settings[i].value;
    const Parameters parameters(config, std::move(settings));
    auto model = std::make_unique<LoadedModel>();
    const auto note = [&](const std::string& line) { server->log(2, fmt::format("model '{}': {}", args->name, line).c_str()); };
    model->engine = open_engine(find_model_file(args->version_folder, args->file_name),
                                build_options(parameters, device_of(config, parameters)), parameters, note);
    if (LanguageModel::is_one(*model->engine)) {
      model->language_model = std::make_unique<LanguageModel>(*server, args->name, model->engine, parameters);
      model->description = LanguageModel::describe();
    } else {
      model->description = describe_engine(*model->engine);
    }
    model->max_plans = static_cast<int>(std::max<int64_t>(32, 2 * max_batch_size_of(config, parameters)));
    model->batch_sizes = batch_sizes_of(config, parameters, *model->engine);
    *result = reinterpret_cast<tkb_model*>(model.release());
  });
}

void unload(tkb_model* model) { delete &of(model); }

const char* describe(tkb_model* model) { return of(model).description.c_str(); }

tkb_error* create_instance(tkb_model* handle, const tkb_instance_args* args, tkb_instance** result) {
  return guarded(*server, [&] {
    LoadedModel& model = of(handle);
    auto instance = std::make_unique<LoadedInstance>();
    if (model.language_model) {
      instance->language_model = model.language_model.get();
    } else {
      if (args->is_gpu && !model.engine->is_cuda())
        fail(ErrorCode::InvalidArgument, "instance '{}' is for a GPU, and the engine is for the CPU", args->name);
      instance->engine = std::make_unique<EngineInstance>(*server, model.engine, args->gpu, model.max_plans, model.batch_sizes);
    }
    *result = reinterpret_cast<tkb_instance*>(instance.release());
  });
}

void destroy_instance(tkb_instance* instance) { delete reinterpret_cast<LoadedInstance*>(instance); }

tkb_error* execute(tkb_instance* handle, const tkb_request* const* requests, size_t count) {
  return guarded(*server, [&] {
    LoadedInstance& instance = *reinterpret_cast<LoadedInstance*>(handle);
    if (instance.language_model) {
      for (size_t i = 0; i < count; ++i) instance.language_model->generate(*requests[i]);
    } else {
      instance.engine->execute(requests, count);
    }
  });
}

void* find_interface(tkb_model* model, const char* name) {
  return std::string_view(name) == "llm_model" && of(model).language_model ? of(model).language_model->llm() : nullptr;
}

constexpr tkb_backend kBackend = {.size = sizeof(tkb_backend),
                                  .version = TKB_VERSION,
                                  .name = "tokamak",
                                  .load = load,
                                  .unload = unload,
                                  .describe = describe,
                                  .create_instance = create_instance,
                                  .destroy_instance = destroy_instance,
                                  .execute = execute,
                                  .find_interface = find_interface};

}  // namespace

}  // namespace tokamak::backends

extern "C" const tkb_backend* tokamak_builtin_backend(const tkb_server* server) {
  tokamak::backends::server = server;
  return &tokamak::backends::kBackend;
}
