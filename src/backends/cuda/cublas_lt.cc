#include "backends/cuda/cublas_lt.h"

#include <dlfcn.h>

#include <map>
#include <mutex>

#include "backends/cuda/library.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

struct Found {
  CublasLt functions;
  std::string problem;

  Found() {
    void* library = open_library({"libcublasLt.so.13", "libcublasLt.so.12"});
    if (library == nullptr) {
      problem = "cuBLASLt (libcublasLt.so) was not found; TOKAMAK_CUDA_LIBRARY_PATH may name its folder";
      return;
    }
#define TOKAMAK_FIND(name) \
  if ((functions.name = reinterpret_cast<decltype(functions.name)>(dlsym(library, #name))) == nullptr) problem = "cuBLASLt has no " #name;
    TOKAMAK_CUBLASLT_FUNCTIONS(TOKAMAK_FIND)
#undef TOKAMAK_FIND
  }
};

const Found& found() {
  static const Found found;
  return found;
}

}  // namespace

const CublasLt* find_cublas_lt() { return found().problem.empty() ? &found().functions : nullptr; }
const std::string& cublas_lt_problem() { return found().problem; }

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(ErrorCode::Internal, "{}: {}", what, found().functions.cublasLtGetStatusString(status));
}

cublasLtHandle_t cublas_lt_handle(const std::shared_ptr<Device>& device) {
  struct Handle {
    std::shared_ptr<Device> device;  // its context outlives the handle
    cublasLtHandle_t handle = nullptr;
  };
  static std::mutex mutex;
  static auto* const handles = new std::map<int, Handle>;  // never destroyed: the driver may be gone by then
  const std::lock_guard lock(mutex);
  Handle& entry = (*handles)[device->ordinal()];
  if (entry.handle == nullptr) {
    device->make_current();
    check(found().functions.cublasLtCreate(&entry.handle), "cublasLtCreate");
    entry.device = device;
  }
  return entry.handle;
}

}  // namespace tokamak::cuda
