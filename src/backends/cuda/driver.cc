#include "backends/cuda/driver.h"

#include <dlfcn.h>

#include "base/error.h"

namespace tokamak::cuda {
namespace {

#define TOKAMAK_TEXT(x) #x
#define TOKAMAK_EXPANDED_TEXT(x) TOKAMAK_TEXT(x)  // <cuda.h> renames functions to their current version (cuMemAlloc_v2)

struct Found {
  Driver functions;
  std::string problem;  // empty: usable
};

Found load() {
  Found found;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    found.problem = "no NVIDIA driver (libcuda.so.1) on this machine";
    return found;
  }
#define TOKAMAK_CUDA_FUNCTION(name)                                                                                     \
  found.functions.name = reinterpret_cast<decltype(found.functions.name)>(dlsym(library, TOKAMAK_EXPANDED_TEXT(name))); \
  if (found.functions.name == nullptr && found.problem.empty()) found.problem = "the NVIDIA driver is too old: it has no " #name;
#include "backends/cuda/driver_functions.inc"
#undef TOKAMAK_CUDA_FUNCTION
  if (!found.problem.empty()) return found;
  if (const CUresult result = found.functions.cuInit(0); result != CUDA_SUCCESS) {
    const char* text = nullptr;
    found.functions.cuGetErrorString(result, &text);
    found.problem = fmt::format("the NVIDIA driver does not start: {}", text ? text : "unknown error");
    return found;
  }
  int count = 0;
  if (found.functions.cuDeviceGetCount(&count) != CUDA_SUCCESS || count == 0) found.problem = "no NVIDIA GPU on this machine";
  return found;
}

const Found& found() {
  static const Found found = load();
  return found;
}

}  // namespace

const Driver* find_driver() { return found().problem.empty() ? &found().functions : nullptr; }

const std::string& driver_problem() { return found().problem; }

const Driver& driver() {
  if (!found().problem.empty()) fail(ErrorCode::Unsupported, "CUDA cannot be used: {}", found().problem);
  return found().functions;
}

void check(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  const char *name = nullptr, *text = nullptr;
  found().functions.cuGetErrorName(result, &name);
  found().functions.cuGetErrorString(result, &text);
  fail(result == CUDA_ERROR_OUT_OF_MEMORY ? ErrorCode::ResourceExhausted : ErrorCode::Internal, "{}: {} ({})", what, name ? name : "?",
       text ? text : "unknown CUDA error");
}

}  // namespace tokamak::cuda
