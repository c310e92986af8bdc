#pragma once
// From a version folder to an engine: finds the model's file, and builds what is no engine yet, through the engine cache.

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "builder/builder.h"

namespace tokamak::backends {

// Values by name from the config's `parameters`, else from --backend-config. Readers throw InvalidArgument with the name.
class Parameters {
 public:
  Parameters(const nlohmann::json& config, std::map<std::string, std::string> settings);
  std::string text(const std::string& name, const std::string& otherwise = "") const;
  int64_t integer(const std::string& name, int64_t otherwise) const;  // sizes may end in K, M, G
  bool flag(const std::string& name, bool otherwise) const;

 private:
  std::map<std::string, std::string> values_;
};

// precision, opt_level, threads, int4_group_size, kv_dtype, kv_block_size, workspace, max_context_length. `device` as in BuildOptions.
BuildOptions build_options(const Parameters& parameters, const std::string& device);

// The file or folder to load: `file_name` if not empty, else model.engine, model.onnx, model.gguf, the folder itself if it is a checkpoint,
// or the only file of one of these kinds. Throws NotFound.
std::string find_model_file(const std::string& version_folder, const std::string& file_name);

// Parameter cache_dir names another folder than the user's cache, "" builds anew each time. `note` receives lines for the log.
std::shared_ptr<const Engine> open_engine(const std::string& path, const BuildOptions& options, const Parameters& parameters,
                                          const std::function<void(const std::string&)>& note);

}  // namespace tokamak::backends
