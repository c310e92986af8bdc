#include "backends/cuda/device_constants.h"

#include <set>

#include "memory/planner.h"

namespace tokamak::cuda {

std::vector<std::pair<const Tensor*, int64_t>> DeviceConstants::missing(std::span<const Tensor> constants, int64_t& bytes) const {
  std::vector<std::pair<const Tensor*, int64_t>> found;
  std::set<Key> seen;
  bytes = 0;
  for (const Tensor& t : constants) {
    const Key key(t.raw(), t.size_bytes());
    if (addresses_.contains(key) || !seen.insert(key).second) continue;
    found.emplace_back(&t, bytes);
    bytes += (t.size_bytes() + memory::kDeviceAlignment - 1) / memory::kDeviceAlignment * memory::kDeviceAlignment;
  }
  return found;
}

int64_t DeviceConstants::missing_bytes(std::span<const Tensor> constants) const {
  const std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  missing(constants, bytes);
  return bytes;
}

void DeviceConstants::upload(std::span<const Tensor> constants) {
  const std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  const auto wanted = missing(constants, bytes);
  if (wanted.empty()) return;
  Buffer buffer = device_->allocate(bytes, "weights");
  for (const auto& [tensor, offset] : wanted)
    if (tensor->size_bytes() > 0)
      check(driver().cuMemcpyHtoD(buffer.pointer() + static_cast<size_t>(offset), tensor->raw(), static_cast<size_t>(tensor->size_bytes())),
            "uploading weights");
  check(driver().cuStreamSynchronize(nullptr), "uploading weights");  // contexts' own streams do not wait for this one
  for (const auto& [tensor, offset] : wanted) addresses_[{tensor->raw(), tensor->size_bytes()}] = buffer.data() + offset;
  buffers_.push_back(std::move(buffer));
}

std::byte* DeviceConstants::find(const Tensor& constant) const {
  const std::lock_guard lock(mutex_);
  const auto found = addresses_.find({constant.raw(), constant.size_bytes()});
  CHECK(found != addresses_.end());
  return found->second;
}

int64_t DeviceConstants::size_bytes() const {
  const std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  for (const Buffer& buffer : buffers_) bytes += buffer.size_bytes();
  return bytes;
}

}  // namespace tokamak::cuda
