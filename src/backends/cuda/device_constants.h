#pragma once
// An engine's constants in the memory of one GPU: uploaded once, read by every context.

#include <span>

#include "backends/cuda/device.h"
#include "base/tensor.h"

namespace tokamak {
class ThreadPool;
}

namespace tokamak::cuda {

// Thread-safe. Constants are known by their storage on the host, which must outlive this.
class DeviceConstants {
 public:
  explicit DeviceConstants(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  // Bytes that upload() would allocate for those that are not here yet.
  int64_t missing_bytes(std::span<const Tensor> constants) const;
  // Throws ResourceExhausted. The pool copies into pinned memory while the GPU fetches from it.
  void upload(std::span<const Tensor> constants, ThreadPool& pool);
  // The address on the GPU of a constant that was uploaded.
  std::byte* find(const Tensor& constant) const;
  int64_t size_bytes() const;

 private:
  using Key = std::pair<const void*, int64_t>;  // storage, size
  struct Hash {
    size_t operator()(const Key& key) const { return std::hash<const void*>()(key.first) ^ static_cast<size_t>(key.second) * 0x9e3779b9; }
  };
  struct Placed {
    const Tensor* tensor;
    int64_t offset;
  };
  // The different ones that are missing, with the offset each would get, in that order; sets `bytes`.
  std::vector<Placed> missing(std::span<const Tensor> constants, int64_t& bytes) const;
  void send(const std::vector<Placed>& wanted, const Buffer& buffer, ThreadPool& pool);

  std::shared_ptr<Device> device_;
  mutable std::mutex mutex_;
  std::vector<Buffer> buffers_;
  std::unordered_map<Key, std::byte*, Hash> addresses_;
};

}  // namespace tokamak::cuda
