#include "backends/cuda/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string_view>

namespace tokamak::cuda {

void* open_library(const std::vector<std::string>& names) {
  std::vector<std::string> folders;
  if (const char* path = std::getenv("TOKAMAK_CUDA_LIBRARY_PATH"); path != nullptr) {
    for (std::string_view rest = path; !rest.empty();) {
      const size_t colon = rest.find(':');
      if (colon != 0) folders.push_back(std::string(rest.substr(0, colon)) + "/");
      rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
    }
  }
  folders.emplace_back();
  folders.emplace_back("/usr/local/cuda/lib64/");
  for (const std::string& folder : folders)
    for (const std::string& name : names)
      if (void* library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr) return library;
  return nullptr;
}

}  // namespace tokamak::cuda
