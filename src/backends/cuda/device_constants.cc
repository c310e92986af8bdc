#include "backends/cuda/device_constants.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "backends/cpu/thread_pool.h"
#include "memory/planner.h"

namespace tokamak::cuda {

std::vector<DeviceConstants::Placed> DeviceConstants::missing(std::span<const Tensor> constants, int64_t& bytes) const {
  std::vector<Placed> found;
  std::set<Key> seen;
  bytes = 0;
  for (const Tensor& t : constants) {
    const Key key(t.raw(), t.size_bytes());
    if (addresses_.contains(key) || !seen.insert(key).second) continue;
    found.push_back({&t, bytes});
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

// Through two pieces of pinned memory: all threads fill one while the other is under way. (The driver's own path for memory that is not
// pinned copies with one thread.)
void DeviceConstants::send(const std::vector<Placed>& wanted, const Buffer& buffer, ThreadPool& pool) {
  constexpr int64_t kPiece = int64_t{32} << 20, kGrain = int64_t{1} << 20;
  const int64_t total = buffer.size_bytes(), piece_bytes = std::min(kPiece, total);
  const Stream stream(device_);
  struct Piece {
    PinnedBuffer memory;
    Event sent{false};
  };
  Piece pieces[2] = {{PinnedBuffer(piece_bytes)}, {PinnedBuffer(piece_bytes)}};
  for (int64_t start = 0, turn = 0; start < total; start += piece_bytes, ++turn) {
    Piece& piece = pieces[turn % 2];
    const int64_t size = std::min(piece_bytes, total - start);
    if (turn >= 2) piece.sent.synchronize();
    pool.parallel_for(size, kGrain, [&](int64_t begin, int64_t end, int) {
      auto next = std::upper_bound(wanted.begin(), wanted.end(), start + begin, [](int64_t at, const Placed& p) { return at < p.offset; });
      for (auto it = next - 1; it != wanted.end() && it->offset < start + end; ++it) {
        const int64_t from = std::max(start + begin, it->offset), to = std::min(start + end, it->offset + it->tensor->size_bytes());
        if (from < to)
          std::memcpy(piece.memory.data() + (from - start), it->tensor->data<std::byte>() + (from - it->offset),
                      static_cast<size_t>(to - from));
      }
    });
    check(driver().cuMemcpyHtoDAsync(buffer.pointer() + static_cast<CUdeviceptr>(start), piece.memory.data(), static_cast<size_t>(size),
                                     stream.get()),
          "uploading weights");
    piece.sent.record(stream.get());
  }
  stream.synchronize();
}

void DeviceConstants::upload(std::span<const Tensor> constants, ThreadPool& pool) {
  const std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  const auto wanted = missing(constants, bytes);
  if (wanted.empty()) return;
  Buffer buffer = device_->allocate(bytes, "weights");
  send(wanted, buffer, pool);
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
