#pragma once
// POSIX shared memory that clients register once and then name in requests, instead of sending tensors. One namespace for all protocols.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace tokamak::server {

// Bytes of a region; `owner` keeps them mapped, also when the region is unregistered meanwhile. The client may change them at any time, and
// may shrink the object under them: readers copy before they rely on what they saw.
struct SharedBytes {
  std::span<std::byte> bytes;
  std::shared_ptr<const void> owner;
};

struct SharedMemoryRegion {
  std::string name, key;  // key: the name of shm_open
  uint64_t offset = 0, byte_size = 0;
};

// Thread-safe.
class SharedMemoryRegistry {
 public:
  // Maps byte_size bytes from `offset` of object `key`. Throws AlreadyExists for a name that is taken; InvalidArgument for empty names,
  // keys that are reserved or would leave the folder of shared memory, sizes of 0, and ranges beyond the object's end; NotFound, Io from
  // the system.
  void add(const SharedMemoryRegion& region);
  // Throws NotFound. Requests that use the region keep it mapped.
  void remove(const std::string& name);
  void remove_all();
  // All when `name` is ""; throws NotFound for another that is not there. By name.
  std::vector<SharedMemoryRegion> regions(const std::string& name = {}) const;
  // Throws NotFound, and InvalidArgument for a range beyond the region.
  SharedBytes view(const std::string& name, uint64_t offset, uint64_t byte_size) const;

 private:
  struct Mapping;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Mapping>, std::less<>> mappings_;
};

}  // namespace tokamak::server
