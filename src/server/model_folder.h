#pragma once
// A model's folder in a repository, as it lies on disk.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model_config.pb.h"

namespace tokamak::server {

struct ModelFolder {
  std::string path;
  inference::ModelConfig config;                           // after apply_defaults()
  std::vector<int64_t> versions;                           // what the version policy chooses of those that are there, ascending; not empty
  std::map<std::string, std::vector<std::string>> labels;  // lines of an output's label file, by output
  // Of a version: changes whenever its files, the config or the labels change.
  std::map<int64_t, std::string> fingerprints;

  std::string version_path(int64_t version) const { return path + "/" + std::to_string(version); }
  // The models that an ensemble is made of.
  std::vector<std::string> dependencies() const;
};

struct ReadFolderOptions {
  std::string config_name;    // configs/<config_name>.pbtxt, when it is there, instead of config.pbtxt
  bool needs_config = false;  // a folder without one is an error
  std::string config_json;    // instead of any file, when not empty
};

// What is odd but no error goes to `warnings`. Throws InvalidArgument for a config that cannot be, NotFound when there is no version.
ModelFolder read_model_folder(const std::string& path, const std::string& name, const ReadFolderOptions& options,
                              std::vector<std::string>& warnings);

// Names of the folders in a repository, sorted. Throws NotFound when it is none.
std::vector<std::string> list_models(const std::string& repository);

// Of everything below `path`: names, sizes, times of change. "" when there is nothing.
std::string folder_fingerprint(const std::string& path);

// A folder under the system's folder for temporary files, removed with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();  // throws Io
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  // Creates `file` ("1/model.onnx") and the folders above it. Throws InvalidArgument when it would lie outside.
  void write(const std::string& file, const std::string& bytes) const;

 private:
  std::string path_;
};

// Puts a model that lies anywhere (a file or a folder) as version 1 of `name` into a repository, by links. Throws NotFound,
// InvalidArgument.
void link_model(const std::string& repository, const std::string& name, const std::string& model);

}  // namespace tokamak::server
