#pragma once
// Compiled kernels that builds of engines share, across processes: the folder that the environment variable TOKAMAK_CUDA_CODE_CACHE names.

#include <memory>
#include <string>
#include <vector>

namespace tokamak::cuda {

// One file a key; files are written whole (under another name, then renamed), so that processes may share a folder. Thread-safe.
class CodeFolder {
 public:
  // `compiler` becomes part of the files' names: what another version of NVRTC made is compiled again. Makes the folder. Throws
  // InvalidArgument when it cannot be made.
  CodeFolder(std::string path, std::string compiler);
  // The one of the environment; null when the variable is unset or empty.
  static const CodeFolder* of_environment(const std::string& compiler);

  // Null when there is none, or what is there is no cubin.
  std::shared_ptr<const std::vector<char>> find(const std::string& key) const;
  // Throws InvalidArgument when the folder cannot be written.
  void store(const std::string& key, const std::vector<char>& cubin) const;

 private:
  std::string file_of(const std::string& key) const { return path_ + "/" + key + "-" + compiler_ + ".cubin"; }
  std::string path_, compiler_;
};

}  // namespace tokamak::cuda
