#include "server/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace tokamak::server {

struct SharedMemoryRegistry::Mapping {
  SharedMemoryRegion region;
  void* base = nullptr;
  size_t mapped_bytes = 0;
  size_t skipped_bytes = 0;  // from the page's begin to the region's

  ~Mapping() {
    if (base) ::munmap(base, mapped_bytes);
  }
};

namespace {

// What the Python backend calls its own objects.
constexpr std::string_view kReserved = "triton_python_backend_shm_region_";

class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

void check(const SharedMemoryRegion& region) {
  if (region.name.empty()) fail(ErrorCode::InvalidArgument, "a shared memory region needs a name");
  const std::string_view key = std::string_view(region.key).substr(region.key.starts_with('/') ? 1 : 0);
  if (key.empty() || key.find('/') != std::string_view::npos || key.find('\0') != std::string_view::npos || key == "." || key == "..")
    fail(ErrorCode::InvalidArgument, "shared memory region '{}': '{}' is not a key", region.name, region.key);
  if (key.starts_with(kReserved))
    fail(ErrorCode::InvalidArgument, "shared memory region '{}': keys that begin with '{}' are reserved", region.name, kReserved);
  if (region.byte_size == 0) fail(ErrorCode::InvalidArgument, "shared memory region '{}' has no bytes", region.name);
}

}  // namespace

void SharedMemoryRegistry::add(const SharedMemoryRegion& region) {
  check(region);
  const std::lock_guard lock(mutex_);
  if (mappings_.contains(region.name))
    fail(ErrorCode::AlreadyExists, "shared memory region '{}' is registered already, unregister it first", region.name);
  const File file(::shm_open(region.key.c_str(), O_RDWR, 0));
  if (file.get() < 0)
    fail(errno == ENOENT ? ErrorCode::NotFound : ErrorCode::InvalidArgument, "shared memory region '{}': cannot open key '{}': {}",
         region.name, region.key, std::strerror(errno));
  struct stat status = {};
  if (::fstat(file.get(), &status) != 0)
    fail(ErrorCode::Io, "shared memory region '{}': cannot tell the size of key '{}': {}", region.name, region.key, std::strerror(errno));
  const auto object_bytes = static_cast<uint64_t>(status.st_size);
  if (region.offset > object_bytes || region.byte_size > object_bytes - region.offset)
    fail(ErrorCode::InvalidArgument, "shared memory region '{}': {} bytes from {} are beyond the {} bytes of key '{}'", region.name,
         region.byte_size, region.offset, object_bytes, region.key);

  auto mapping = std::make_shared<Mapping>();
  mapping->region = region;
  mapping->skipped_bytes = region.offset % static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  mapping->mapped_bytes = mapping->skipped_bytes + region.byte_size;
  void* base = ::mmap(nullptr, mapping->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(),
                      static_cast<off_t>(region.offset - mapping->skipped_bytes));
  if (base == MAP_FAILED)
    fail(ErrorCode::Io, "shared memory region '{}': cannot map key '{}': {}", region.name, region.key, std::strerror(errno));
  mapping->base = base;
  mappings_.emplace(region.name, std::move(mapping));
}

void SharedMemoryRegistry::remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (mappings_.erase(name) == 0) fail(ErrorCode::NotFound, "shared memory region '{}' is not registered", name);
}

void SharedMemoryRegistry::remove_all() {
  const std::lock_guard lock(mutex_);
  mappings_.clear();
}

std::vector<SharedMemoryRegion> SharedMemoryRegistry::regions(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  std::vector<SharedMemoryRegion> found;
  for (const auto& [key, mapping] : mappings_)
    if (name.empty() || name == key) found.push_back(mapping->region);
  if (found.empty() && !name.empty()) fail(ErrorCode::NotFound, "shared memory region '{}' is not registered", name);
  return found;
}

SharedBytes SharedMemoryRegistry::view(const std::string& name, uint64_t offset, uint64_t byte_size) const {
  const std::lock_guard lock(mutex_);
  const auto it = mappings_.find(name);
  if (it == mappings_.end()) fail(ErrorCode::NotFound, "shared memory region '{}' is not registered", name);
  const Mapping& mapping = *it->second;
  const uint64_t size = mapping.region.byte_size;
  if (offset > size || byte_size > size - offset)
    fail(ErrorCode::InvalidArgument, "{} bytes from {} are beyond the {} bytes of shared memory region '{}'", byte_size, offset, size,
         name);
  auto* first = static_cast<std::byte*>(mapping.base) + mapping.skipped_bytes + offset;
  return {{first, static_cast<size_t>(byte_size)}, it->second};
}

}  // namespace tokamak::server
