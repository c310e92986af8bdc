#pragma once
// cuDNN's graph API, found at run time. https://docs.nvidia.com/deeplearning/cudnn (backend descriptors).

#include <cudnn.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/cuda/device.h"

namespace tokamak::cuda {

// One pointer a function, named as in <cudnn.h>.
struct Cudnn {
#define TOKAMAK_CUDNN_FUNCTIONS(F) \
  F(cudnnCreate)                   \
  F(cudnnSetStream)                \
  F(cudnnGetVersion)               \
  F(cudnnGetErrorString)           \
  F(cudnnBackendCreateDescriptor)  \
  F(cudnnBackendDestroyDescriptor) \
  F(cudnnBackendFinalize)          \
  F(cudnnBackendSetAttribute) F(cudnnBackendGetAttribute) F(cudnnBackendExecute)
#define TOKAMAK_DECLARE(name) decltype(&::name) name = nullptr;
  TOKAMAK_CUDNN_FUNCTIONS(TOKAMAK_DECLARE)
#undef TOKAMAK_DECLARE
};

// Null when it is not installed; cudnn_problem() then says so, for messages.
const Cudnn* find_cudnn();
const std::string& cudnn_problem();

// Throws Internal: "<what>: CUDNN_STATUS_...". Needs the library.
void check(cudnnStatus_t status, const char* what);

// The library's handles for a device, kept until the process ends.
struct CudnnHandle {
  std::shared_ptr<Device> device;
  cudnnHandle_t handle = nullptr;  // to plan with; its users take turns
  std::mutex mutex;

  // The handle whose stream is `stream`, made when it is first asked for; its users too take turns. A handle is never given another stream:
  // cudnnSetStream() records an event on the one before, which may be gone, or be captured by another thread.
  cudnnHandle_t of(CUstream stream);
  std::mutex run_mutex;

 private:
  std::map<CUstream, cudnnHandle_t> by_stream_;
};
CudnnHandle& cudnn_handle(const std::shared_ptr<Device>& device);

// A backend descriptor. Setters throw Internal naming the attribute.
class CudnnDescriptor {
 public:
  explicit CudnnDescriptor(cudnnBackendDescriptorType_t type);
  CudnnDescriptor(CudnnDescriptor&& other) noexcept { std::swap(descriptor_, other.descriptor_); }
  CudnnDescriptor& operator=(CudnnDescriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~CudnnDescriptor();
  cudnnBackendDescriptor_t get() const { return descriptor_; }

  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void* values);
  void set(cudnnBackendAttributeName_t name, int64_t value) { set(name, CUDNN_TYPE_INT64, 1, &value); }
  void set(cudnnBackendAttributeName_t name, float value) { set(name, CUDNN_TYPE_FLOAT, 1, &value); }
  void set(cudnnBackendAttributeName_t name, cudnnDataType_t value) { set(name, CUDNN_TYPE_DATA_TYPE, 1, &value); }
  void set(cudnnBackendAttributeName_t name, const std::vector<int64_t>& values) {
    set(name, CUDNN_TYPE_INT64, static_cast<int64_t>(values.size()), values.data());
  }
  void set(cudnnBackendAttributeName_t name, const CudnnDescriptor& value) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.descriptor_);
  }
  void set(cudnnBackendAttributeName_t name, const std::vector<CudnnDescriptor>& values);

  // At most `most` values; none when the attribute has none.
  std::vector<int64_t> ints(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t most) const;
  std::vector<CudnnDescriptor> descriptors(cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t type, int64_t most) const;

  void finalize(const char* what);  // throws
  bool try_finalize();              // false: not supported

 private:
  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

}  // namespace tokamak::cuda
