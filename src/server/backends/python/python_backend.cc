// The backend "python": a model.py with Triton's TritonPythonModel, each instance in a process of its own.
//
// Parameters (of the config, else --backend-config python,...): python (the interpreter, "python3"), start_timeout_ms,
// execution_timeout_ms, cancel_grace_ms, finalize_timeout_ms.

#include <filesystem>

#include "server/backends/python/python_instance.h"
#include "server/backends/support.h"

namespace tokamak::backends::python {

namespace {

namespace fs = std::filesystem;

const tkb_server* server = nullptr;

PythonModel& of(tkb_model* model) { return *reinterpret_cast<PythonModel*>(model); }

std::string parameter(const tkb_model_args& args, const nlohmann::json& config, const char* name, const std::string& otherwise) {
  if (const auto all = config.find("parameters"); all != config.end())
    if (const auto own = all->find(name); own != all->end()) return own->value("string_value", otherwise);
  const char* setting = find_setting(args, name);
  return setting ? setting : otherwise;
}

int milliseconds(const tkb_model_args& args, const nlohmann::json& config, const char* name, int otherwise) {
  const std::string text = parameter(args, config, name, std::to_string(otherwise));
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end || value < 0 || value > 1'000'000'000)
    fail(ErrorCode::InvalidArgument, "parameter '{}' is '{}', expected milliseconds", name, text);
  return static_cast<int>(value);
}

// The server's form of what auto_complete_config() made of the config.
std::string describe(const nlohmann::json& config) {
  const int batch = config.value("max_batch_size", 0);
  const auto list = [&](const char* kind) {
    nlohmann::json result = nlohmann::json::array();
    for (const auto& io : config.value(kind, nlohmann::json::array())) {
      std::vector<int64_t> shape = io.at("dims").get<std::vector<int64_t>>();
      if (batch > 0) shape.insert(shape.begin(), -1);
      result.push_back(
          {{"name", io.at("name")}, {"data_type", io.at("data_type")}, {"shape", shape}, {"optional", io.value("optional", false)}});
    }
    return result;
  };
  nlohmann::json json = {{"inputs", list("input")}, {"outputs", list("output")}, {"can_batch", batch > 0}, {"sequence_tensors", false}};
  if (batch > 0) json["max_batch_size"] = batch;
  if (config.contains("model_transaction_policy")) json["decoupled"] = config["model_transaction_policy"].value("decoupled", false);
  if (config.contains("dynamic_batching")) json["dynamic_batching"] = config["dynamic_batching"];
  return json.dump();
}

tkb_error* load(const tkb_model_args* args, tkb_model** result) {
  return guarded(*server, [&] {
    nlohmann::json config = nlohmann::json::parse(args->config_json);
    auto model = std::make_unique<PythonModel>();
    model->name = args->name;
    model->python = parameter(*args, config, "python", "python3");
    const std::string file = *args->file_name ? args->file_name : "model.py";
    fs::path path = fs::path(args->version_folder) / file;
    if (!fs::exists(path)) path = fs::path(args->model_folder) / file;
    if (!fs::exists(path)) fail(ErrorCode::NotFound, "'{}' has no {}", args->version_folder, file);
    model->path = path.string();
    model->start_timeout_ms = milliseconds(*args, config, "start_timeout_ms", model->start_timeout_ms);
    model->execution_timeout_ms = milliseconds(*args, config, "execution_timeout_ms", model->execution_timeout_ms);
    model->cancel_grace_ms = milliseconds(*args, config, "cancel_grace_ms", model->cancel_grace_ms);
    model->finalize_timeout_ms = milliseconds(*args, config, "finalize_timeout_ms", model->finalize_timeout_ms);
    if (args->complete)
      if (const auto completed = auto_complete(*model, args->config_json)) {
        model->description = describe(*completed);
        config = *completed;
      }
    model->is_decoupled = config.contains("model_transaction_policy") && config["model_transaction_policy"].value("decoupled", false);
    model->args = {{"model_config", config.dump()},
                   {"model_repository", args->model_folder},
                   {"model_version", std::to_string(args->version)},
                   {"model_name", args->name}};
    *result = reinterpret_cast<tkb_model*>(model.release());
  });
}

void unload(tkb_model* model) { delete &of(model); }

const char* describe_model(tkb_model* model) { return of(model).description.empty() ? nullptr : of(model).description.c_str(); }

tkb_error* create_instance(tkb_model* model, const tkb_instance_args* args, tkb_instance** instance) {
  return guarded(*server, [&] { *instance = reinterpret_cast<tkb_instance*>(new PythonInstance(*server, of(model), *args)); });
}

void destroy_instance(tkb_instance* instance) { delete reinterpret_cast<PythonInstance*>(instance); }

tkb_error* execute(tkb_instance* instance, const tkb_request* const* requests, size_t count) {
  return guarded(*server, [&] { reinterpret_cast<PythonInstance*>(instance)->execute(requests, count); });
}

constexpr tkb_backend kBackend = {.size = sizeof(tkb_backend),
                                  .version = TKB_VERSION,
                                  .name = "python",
                                  .load = load,
                                  .unload = unload,
                                  .describe = describe_model,
                                  .create_instance = create_instance,
                                  .destroy_instance = destroy_instance,
                                  .execute = execute};

}  // namespace

}  // namespace tokamak::backends::python

extern "C" __attribute__((visibility("default"))) const tkb_backend* tokamak_backend(const tkb_server* server) {
  if (server->version != TKB_VERSION) return nullptr;
  tokamak::backends::python::server = server;
  return &tokamak::backends::python::kBackend;
}
