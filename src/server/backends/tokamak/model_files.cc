#include "server/backends/tokamak/model_files.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "builder/device.h"
#include "builder/engine_cache.h"
#include "builder/model_kind.h"

namespace tokamak::backends {

namespace fs = std::filesystem;

Parameters::Parameters(const nlohmann::json& config, std::map<std::string, std::string> settings) : values_(std::move(settings)) {
  const auto own = config.find("parameters");
  if (own == config.end()) return;
  for (const auto& [name, value] : own->items()) values_[name] = value.value("string_value", "");
}

std::string Parameters::text(const std::string& name, const std::string& otherwise) const {
  const auto found = values_.find(name);
  return found == values_.end() ? otherwise : found->second;
}

int64_t Parameters::integer(const std::string& name, int64_t otherwise) const {
  const auto found = values_.find(name);
  if (found == values_.end()) return otherwise;
  const std::string& text = found->second;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view unit(end, text.data() + text.size());
  if (unit.ends_with('B')) unit.remove_suffix(1);
  const int shift = unit == "K" ? 10 : unit == "M" ? 20 : unit == "G" ? 30 : unit.empty() ? 0 : -1;
  if (error != std::errc() || shift < 0 || value < 0 || value > (INT64_MAX >> shift))
    fail(ErrorCode::InvalidArgument, "parameter '{}' is '{}', expected a number that is not negative", name, text);
  return value << shift;
}

bool Parameters::flag(const std::string& name, bool otherwise) const {
  const std::string value = text(name, otherwise ? "true" : "false");
  if (value == "true" || value == "1" || value == "on") return true;
  if (value == "false" || value == "0" || value == "off") return false;
  fail(ErrorCode::InvalidArgument, "parameter '{}' is '{}', expected true or false", name, value);
}

BuildOptions build_options(const Parameters& parameters, const std::string& device) {
  BuildOptions options;
  options.device = device;
  const bool on_gpu = parse_device(device).is_cuda;
  const std::string precision = parameters.text("precision", "fp32");
  const std::pair<const char*, Precision> precisions[] = {{"fp32", Precision::F32},  {"tf32", Precision::TF32}, {"fp16", Precision::F16},
                                                          {"bf16", Precision::BF16}, {"best", Precision::Best}, {"int8", Precision::Int8},
                                                          {"int4", Precision::Int4}, {"fp8", Precision::FP8}};
  const auto found = std::find_if(std::begin(precisions), std::end(precisions), [&](const auto& p) { return precision == p.first; });
  if (found == std::end(precisions))
    fail(ErrorCode::InvalidArgument, "parameter 'precision' is '{}', expected fp32, tf32, fp16, bf16, best, int8, int4 or fp8", precision);
  options.precision = found->second;
  if (!on_gpu && (precision == "fp8" || precision == "fp16" || precision == "tf32"))
    fail(ErrorCode::Unsupported, "precision {} needs a GPU; on the CPU there are fp32, bf16, best, int8 and int4", precision);
  if (precision == "fp16") options.activations = DType::F16;
  options.opt_level = static_cast<int>(parameters.integer("opt_level", options.opt_level));
  options.num_threads = static_cast<int>(parameters.integer("threads", 0));
  options.int4_group_size = static_cast<int>(parameters.integer("int4_group_size", options.int4_group_size));
  options.kv_block_size = static_cast<int>(parameters.integer("kv_block_size", options.kv_block_size));
  options.workspace_limit_bytes = parameters.integer("workspace", 0);
  options.max_context = parameters.integer("max_context_length", 0);
  const std::string kv = parameters.text("kv_dtype");
  const std::pair<const char*, DType> kv_dtypes[] = {
      {"fp32", DType::F32}, {"bf16", DType::BF16}, {"fp16", DType::F16}, {"fp8", DType::F8E4M3FN}};
  for (const auto& [name, dtype] : kv_dtypes)
    if (kv == name) options.kv_dtype = dtype;
  if (!kv.empty() && !options.kv_dtype)
    fail(ErrorCode::InvalidArgument, "parameter 'kv_dtype' is '{}', expected fp32, bf16, fp16 or fp8", kv);
  return options;
}

std::string find_model_file(const std::string& version_folder, const std::string& file_name) {
  const fs::path folder(version_folder);
  std::error_code error;
  if (!file_name.empty()) {
    const fs::path path = folder / file_name;
    if (fs::exists(path, error)) return path.string();
  }
  for (const char* name : {"model.engine", "model.onnx", "model.gguf", "model"})
    if (fs::exists(folder / name, error)) return (folder / name).string();
  if (fs::exists(folder / "config.json", error)) return folder.string();
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".engine" || extension == ".onnx" || extension == ".gguf") found.push_back(entry.path().string());
  }
  if (found.size() == 1) return found[0];
  fail(ErrorCode::NotFound, "'{}' holds {} (model.engine, model.onnx, model.gguf or a checkpoint's config.json)", version_folder,
       found.empty() ? "no model" : "several models, and none under the default name");
}

std::shared_ptr<const Engine> open_engine(const std::string& model, const BuildOptions& options, const Parameters& parameters,
                                          const std::function<void(const std::string&)>& note) {
  std::string path = model;
  if (model_kind(path) == ModelKind::Engine) {
    auto engine = Engine::load(path);
    if (parse_device(options.device).is_cuda != engine->is_cuda() && !parameters.text("device").empty())
      fail(ErrorCode::InvalidArgument, "'{}' is an engine for {}, and the model is configured for {}: build it again", path,
           engine->info().device, options.device);
    return engine;
  }
  std::optional<EngineCache> cache;
  const std::string folder = parameters.text("cache_dir", default_cache_folder());
  if (!folder.empty()) cache.emplace(folder);
  std::string stem = fs::path(path).lexically_normal().string();
  while (stem.ends_with('/')) stem.pop_back();
  CacheKey key(stem.substr(stem.rfind('/') + 1), describe_model_files(path));
  key.add(options);
  std::string reason;
  if (cache)
    if (auto engine = cache->find(key, reason)) return engine;
  if (!reason.empty()) note(reason);
  BuildReport report;
  auto engine = build_engine(path, options, &report);
  for (const std::string& line : report.notes) note(line);
  note(fmt::format("built '{}' in {:.1f} s", path, report.total_s));
  if (!cache) return engine;
  try {
    cache->put(key, *engine);
    if (auto kept = cache->find(key, reason)) return kept;  // mapped, and what the next start runs
  } catch (const Error& error) {
    note(fmt::format("the engine is not kept: {}", error.what()));
  }
  return engine;
}

}  // namespace tokamak::backends
