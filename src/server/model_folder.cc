#include "server/model_folder.h"

#include <stdlib.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "server/config.h"

namespace tokamak::server {

namespace fs = std::filesystem;

namespace {

// Versions are folders named by a number above 0, without leading zeros.
std::vector<int64_t> version_folders(const fs::path& folder, std::vector<std::string>& warnings) {
  std::vector<int64_t> versions;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    std::error_code ignored;
    if (!entry.is_directory(ignored)) continue;
    const std::string name = entry.path().filename().string();
    if (name == "configs" || name.starts_with('.')) continue;
    int64_t version = 0;
    const auto [end, parse_error] = std::from_chars(name.data(), name.data() + name.size(), version);
    if (parse_error != std::errc() || end != name.data() + name.size() || version < 0)
      warnings.push_back(fmt::format("ignore version directory '{}' which fails to convert to integral number", name));
    else if (name[0] == '0')
      warnings.push_back(fmt::format("ignore version directory '{}' which contains leading zeros in its directory name", name));
    else versions.push_back(version);
  }
  std::sort(versions.begin(), versions.end());
  return versions;
}

std::vector<int64_t> choose_versions(const std::vector<int64_t>& present, const inference::ModelConfig& config,
                                     std::vector<std::string>& warnings) {
  const auto& policy = config.version_policy();
  std::vector<int64_t> chosen;
  if (policy.has_all()) {
    chosen = present;
  } else if (policy.has_specific()) {
    for (const int64_t version : std::set<int64_t>(policy.specific().versions().begin(), policy.specific().versions().end())) {
      if (std::binary_search(present.begin(), present.end(), version)) chosen.push_back(version);
      else
        warnings.push_back(
            fmt::format("version {} is specified for model '{}', but the version directory is not present", version, config.name()));
    }
  } else {
    const size_t count = std::max<size_t>(policy.latest().num_versions(), 1);
    chosen.assign(present.end() - static_cast<std::ptrdiff_t>(std::min(count, present.size())), present.end());
  }
  if (chosen.empty())
    fail(ErrorCode::NotFound, "at least one version must be available under the version policy of model '{}'", config.name());
  return chosen;
}

std::vector<std::string> read_lines(const fs::path& file) {
  std::vector<std::string> lines;
  std::istringstream text(read_file(file.string()));
  for (std::string line; std::getline(text, line);) {
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(line);
  }
  return lines;
}

// A path that stays below the folder it is meant for.
bool is_inside(const fs::path& relative) {
  const fs::path normal = relative.lexically_normal();
  return !relative.is_absolute() && !normal.empty() && *normal.begin() != ".." && normal != ".";
}

std::map<std::string, std::vector<std::string>> read_labels(const inference::ModelConfig& config, const fs::path& folder) {
  std::map<std::string, std::vector<std::string>> labels;
  for (const auto& output : config.output()) {
    if (output.label_filename().empty()) continue;
    if (!is_inside(output.label_filename()))
      fail(ErrorCode::InvalidArgument, "label_filename '{}' of output '{}' must stay within the model's directory", output.label_filename(),
           output.name());
    labels[output.name()] = read_lines(folder / output.label_filename());
  }
  return labels;
}

std::string read_config_text(const fs::path& folder, const std::string& config_name, std::string& where) {
  std::error_code ignored;
  const fs::path custom = folder / "configs" / (config_name + ".pbtxt");
  fs::path file = folder / "config.pbtxt";
  if (!config_name.empty() && fs::is_regular_file(custom, ignored)) file = custom;
  where = file.string();
  return fs::is_regular_file(file, ignored) ? read_file(where) : std::string();
}

void add_fingerprint(const fs::path& path, const std::string& name, int depth, std::vector<std::string>& out) {
  std::error_code error;
  const auto status = fs::status(path, error);  // of what a link points to
  if (error) return;
  const auto time = fs::last_write_time(path, error).time_since_epoch().count();
  if (!fs::is_directory(status)) {
    out.push_back(fmt::format("{}:{}:{}", name, time, fs::file_size(path, error)));
  } else if (depth < 16) {
    out.push_back(fmt::format("{}/", name));
    for (const auto& entry : fs::directory_iterator(path, error))
      add_fingerprint(entry.path(), name + "/" + entry.path().filename().string(), depth + 1, out);
  }
}

}  // namespace

std::string folder_fingerprint(const std::string& path) {
  std::vector<std::string> parts;
  add_fingerprint(path, "", 0, parts);
  std::sort(parts.begin(), parts.end());
  std::string out;
  for (const std::string& part : parts) (out += part) += '\n';
  return out;
}

std::vector<std::string> ModelFolder::dependencies() const {
  std::set<std::string> names;
  for (const auto& step : config.ensemble_scheduling().step()) names.insert(step.model_name());
  return {names.begin(), names.end()};
}

std::vector<std::string> list_models(const std::string& repository) {
  std::error_code error;
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(repository, error)) {
    std::error_code ignored;
    const std::string name = entry.path().filename().string();
    if (entry.is_directory(ignored) && !name.starts_with('.')) names.push_back(name);
  }
  if (error) fail(ErrorCode::NotFound, "model repository '{}' cannot be read: {}", repository, error.message());
  std::sort(names.begin(), names.end());
  return names;
}

ModelFolder read_model_folder(const std::string& path, const std::string& name, const ReadFolderOptions& options,
                              std::vector<std::string>& warnings) {
  ModelFolder folder;
  folder.path = path;
  std::string config_text = options.config_json;
  if (!config_text.empty()) {
    folder.config = parse_config_json(config_text);
  } else {
    std::string where;
    config_text = read_config_text(path, options.config_name, where);
    if (config_text.empty() && options.needs_config)
      fail(ErrorCode::NotFound, "failed to open text file for read {}: a model needs its config when it is not to be completed", where);
    folder.config = parse_config(config_text, where, warnings);
  }
  for (const std::string& field : unused_fields(folder.config))
    warnings.push_back(fmt::format("model '{}': field '{}' of the config has no effect in this server", name, field));

  const std::vector<int64_t> present = version_folders(path, warnings);
  inference::ModelConfig named = folder.config;
  named.set_name(name);
  folder.versions = choose_versions(present, named, warnings);
  apply_defaults(folder.config, name, folder.version_path(folder.versions.back()));
  folder.labels = read_labels(folder.config, path);

  std::string common = config_text;
  for (const auto& output : folder.config.output())
    if (!output.label_filename().empty()) common += folder_fingerprint(path + "/" + output.label_filename());
  for (const int64_t version : folder.versions) folder.fingerprints[version] = common + folder_fingerprint(folder.version_path(version));
  return folder;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (fs::temp_directory_path() / "tokamak-serve-XXXXXX").string();
  if (!mkdtemp(pattern.data())) fail(ErrorCode::Io, "cannot create a folder for temporary files like '{}'", pattern);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void TemporaryFolder::write(const std::string& file, const std::string& bytes) const {
  if (!is_inside(file) || !fs::path(file).has_filename())
    fail(ErrorCode::InvalidArgument, "Invalid file parameter 'file:{}', it must stay within model directory.", file);
  const fs::path target = fs::path(path_) / fs::path(file).lexically_normal();
  std::error_code error;
  fs::create_directories(target.parent_path(), error);
  if (error) fail(ErrorCode::InvalidArgument, "Invalid file parameter 'file:{}': {}", file, error.message());
  if (fs::is_directory(target, error))
    fail(ErrorCode::InvalidArgument, "Invalid file parameter 'file:{}', directory has been created as a file", file);
  write_file_atomic(target.string(), bytes);
}

void link_model(const std::string& repository, const std::string& name, const std::string& model) {
  std::error_code error;
  const fs::path source = fs::canonical(model, error);
  if (error) fail(ErrorCode::NotFound, "there is no model '{}'", model);
  const fs::path version = fs::path(repository) / name / "1";
  fs::create_directories(version.parent_path());
  if (fs::is_directory(source)) {
    fs::create_directory_symlink(source, version);
    return;
  }
  const std::string extension = source.extension().string();
  if (extension != ".onnx" && extension != ".engine" && extension != ".gguf" && extension != ".py")
    fail(ErrorCode::InvalidArgument, "'{}' is no model to serve: expected .onnx, .engine, .gguf, .py or a checkpoint's folder", model);
  fs::create_directory(version);
  fs::create_symlink(source, version / ("model" + extension));
  // Weights beside an ONNX file keep the names that the model knows them by.
  if (extension == ".onnx")
    for (const auto& entry : fs::directory_iterator(source.parent_path()))
      if (entry.is_regular_file() && entry.path().filename().string().starts_with(source.filename().string()) && entry.path() != source)
        fs::create_symlink(entry.path(), version / entry.path().filename());
}

}  // namespace tokamak::server
