#pragma once
// Memory that two processes see, made before the second one starts; grows.

#include <cstddef>

namespace tokamak::backends::python {

class SharedRegion {
 public:
  explicit SharedRegion(const char* name);  // throws Error (Io)
  ~SharedRegion();
  SharedRegion(const SharedRegion&) = delete;

  int fd() const { return fd_; }
  // At least `size` bytes, mapped. `grow`: this side decides the size; else the other did. Throws Error (ResourceExhausted, Internal).
  std::byte* map(size_t size, bool grow);

 private:
  int fd_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace tokamak::backends::python
