#include "server/backends/python/shared_region.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace tokamak::backends::python {

SharedRegion::SharedRegion(const char* name) : fd_(::memfd_create(name, MFD_CLOEXEC)) {
  if (fd_ < 0) fail(ErrorCode::Io, "cannot make shared memory: {}", std::strerror(errno));
}

SharedRegion::~SharedRegion() {
  if (data_) ::munmap(data_, size_);
  ::close(fd_);
}

std::byte* SharedRegion::map(size_t size, bool grow) {
  if (size <= size_) return data_;
  struct stat info {};
  if (grow) {
    size = std::max(size + size / 2, size_t{1} << 16);
    if (::ftruncate(fd_, static_cast<off_t>(size)) != 0)
      fail(ErrorCode::ResourceExhausted, "shared memory cannot grow to {} bytes: {}", size, std::strerror(errno));
  } else if (::fstat(fd_, &info) != 0 || info.st_size < static_cast<off_t>(size)) {
    fail(ErrorCode::Internal, "the Python process speaks of {} bytes of shared memory, and there are {}", size, info.st_size);
  } else {
    size = static_cast<size_t>(info.st_size);
  }
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (data == MAP_FAILED) fail(ErrorCode::ResourceExhausted, "{} bytes of shared memory cannot be mapped: {}", size, std::strerror(errno));
  if (data_) ::munmap(data_, size_);
  data_ = static_cast<std::byte*>(data);
  size_ = size;
  return data_;
}

}  // namespace tokamak::backends::python
