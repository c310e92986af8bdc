#include "cli/device_tensors.h"

#include <cstring>
#include <vector>

#include "base/error.h"
#ifdef TOKAMAK_CUDA
#include "backends/cuda/device.h"
#endif

namespace tokamak::cli {

#ifdef TOKAMAK_CUDA

struct DeviceTensors::Impl {
  explicit Impl(int ordinal) : device(cuda::Device::get(ordinal)) {}
  std::shared_ptr<cuda::Device> device;
  std::vector<cuda::Buffer> buffers;
  std::vector<cuda::PinnedBuffer> pinned;
  cuda::PinnedBuffer landing;  // of downloads
};

DeviceTensors::DeviceTensors(int ordinal) : impl_(std::make_unique<Impl>(ordinal)) {}
DeviceTensors::~DeviceTensors() = default;

Tensor DeviceTensors::add(const Tensor& host) {
  impl_->device->make_current();
  impl_->buffers.push_back(impl_->device->allocate(host.size_bytes(), "an input"));
  impl_->pinned.emplace_back(host.size_bytes());
  const cuda::Buffer& buffer = impl_->buffers.back();
  if (host.size_bytes() > 0)
    cuda::check(cuda::driver().cuMemcpyHtoD(buffer.pointer(), host.raw(), static_cast<size_t>(host.size_bytes())), "uploading an input");
  wait(nullptr);  // the context's stream does not wait for the default one
  return Tensor::view(host.dtype(), host.shape(), buffer.data());
}

void DeviceTensors::upload(int index, const Tensor& host, CUstream_st* stream) {
  const auto size = static_cast<size_t>(host.size_bytes());
  if (size == 0) return;
  impl_->device->make_current();
  std::memcpy(impl_->pinned[index].data(), host.raw(), size);
  cuda::check(cuda::driver().cuMemcpyHtoDAsync(impl_->buffers[index].pointer(), impl_->pinned[index].data(), size, stream),
              "uploading an input");
}

void DeviceTensors::download(const Tensor& device, Tensor& host, CUstream_st* stream) {
  if (host.size_bytes() == 0) return;
  impl_->device->make_current();
  if (impl_->landing.size_bytes() < host.size_bytes()) impl_->landing = cuda::PinnedBuffer(host.size_bytes());
  cuda::check(cuda::driver().cuMemcpyDtoHAsync(impl_->landing.data(), reinterpret_cast<CUdeviceptr>(device.raw()),
                                               static_cast<size_t>(host.size_bytes()), stream),
              "downloading an output");
  wait(stream);
  std::memcpy(host.raw(), impl_->landing.data(), static_cast<size_t>(host.size_bytes()));
}

void DeviceTensors::wait(CUstream_st* stream) { cuda::check(cuda::driver().cuStreamSynchronize(stream), "waiting for the GPU"); }

#else

struct DeviceTensors::Impl {};
DeviceTensors::DeviceTensors(int) { fail(ErrorCode::Unsupported, "this build of Tokamak has no CUDA backend"); }
DeviceTensors::~DeviceTensors() = default;
Tensor DeviceTensors::add(const Tensor&) { return {}; }
void DeviceTensors::upload(int, const Tensor&, CUstream_st*) {}
void DeviceTensors::download(const Tensor&, Tensor&, CUstream_st*) {}
void DeviceTensors::wait(CUstream_st*) {}

#endif

}  // namespace tokamak::cli
