#include "backends/cuda/cudnn.h"

#include <dlfcn.h>

#include <map>

#include "backends/cuda/library.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

struct Found {
  Cudnn functions;
  std::string problem;

  Found() {
    void* library = open_library({"libcudnn.so.9"});
    if (library == nullptr) {
      problem = "cuDNN 9 (libcudnn.so.9) was not found; TOKAMAK_CUDA_LIBRARY_PATH may name its folder";
      return;
    }
#define TOKAMAK_FIND(name) \
  if ((functions.name = reinterpret_cast<decltype(functions.name)>(dlsym(library, #name))) == nullptr) problem = "cuDNN has no " #name;
    TOKAMAK_CUDNN_FUNCTIONS(TOKAMAK_FIND)
#undef TOKAMAK_FIND
  }
};

const Found& found() {
  static const Found found;
  return found;
}

}  // namespace

const Cudnn* find_cudnn() { return found().problem.empty() ? &found().functions : nullptr; }
const std::string& cudnn_problem() { return found().problem; }

void check(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS) fail(ErrorCode::Internal, "{}: {}", what, found().functions.cudnnGetErrorString(status));
}

CudnnHandle& cudnn_handle(const std::shared_ptr<Device>& device) {
  static std::mutex mutex;
  static auto* const handles = new std::map<int, CudnnHandle>;  // never destroyed: the driver may be gone by then
  const std::lock_guard lock(mutex);
  CudnnHandle& entry = (*handles)[device->ordinal()];
  if (entry.handle == nullptr) {
    device->make_current();
    check(found().functions.cudnnCreate(&entry.handle), "cudnnCreate");
    entry.device = device;
  }
  return entry;
}

cudnnHandle_t CudnnHandle::of(CUstream stream) {
  cudnnHandle_t& entry = by_stream_[stream];
  if (entry == nullptr) {
    check(found().functions.cudnnCreate(&entry), "cudnnCreate");
    check(found().functions.cudnnSetStream(entry, stream), "cudnnSetStream");
  }
  return entry;
}

CudnnDescriptor::CudnnDescriptor(cudnnBackendDescriptorType_t type) {
  check(found().functions.cudnnBackendCreateDescriptor(type, &descriptor_), "cudnnBackendCreateDescriptor");
}

CudnnDescriptor::~CudnnDescriptor() {
  if (descriptor_ != nullptr) found().functions.cudnnBackendDestroyDescriptor(descriptor_);
}

void CudnnDescriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void* values) {
  check(found().functions.cudnnBackendSetAttribute(descriptor_, name, type, count, values),
        fmt::format("cuDNN attribute {}", static_cast<int>(name)).c_str());
}

void CudnnDescriptor::set(cudnnBackendAttributeName_t name, const std::vector<CudnnDescriptor>& values) {
  std::vector<cudnnBackendDescriptor_t> list;
  for (const CudnnDescriptor& value : values) list.push_back(value.descriptor_);
  set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(list.size()), list.data());
}

std::vector<int64_t> CudnnDescriptor::ints(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t most) const {
  const auto get = [&](void* values, int64_t& count) {
    return found().functions.cudnnBackendGetAttribute(descriptor_, name, type, most, &count, values);
  };
  int64_t count = 0;
  if (type == CUDNN_TYPE_INT64) {
    std::vector<int64_t> values(static_cast<size_t>(most));
    if (get(values.data(), count) != CUDNN_STATUS_SUCCESS) return {};
    values.resize(static_cast<size_t>(std::min(count, most)));
    return values;
  }
  std::vector<int32_t> values(static_cast<size_t>(most));  // enumerations
  if (get(values.data(), count) != CUDNN_STATUS_SUCCESS) return {};
  values.resize(static_cast<size_t>(std::min(count, most)));
  return {values.begin(), values.end()};
}

std::vector<CudnnDescriptor> CudnnDescriptor::descriptors(cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t type,
                                                          int64_t most) const {
  std::vector<CudnnDescriptor> list;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (int64_t i = 0; i < most; ++i) raw.push_back(list.emplace_back(type).get());
  int64_t count = 0;
  if (found().functions.cudnnBackendGetAttribute(descriptor_, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, &count, raw.data()) !=
      CUDNN_STATUS_SUCCESS)
    count = 0;
  list.erase(list.begin() + std::min(count, most), list.end());
  return list;
}

void CudnnDescriptor::finalize(const char* what) { check(found().functions.cudnnBackendFinalize(descriptor_), what); }
bool CudnnDescriptor::try_finalize() { return found().functions.cudnnBackendFinalize(descriptor_) == CUDNN_STATUS_SUCCESS; }

}  // namespace tokamak::cuda
