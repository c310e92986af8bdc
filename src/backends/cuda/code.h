#pragma once
// Device code: CUDA C++ text to cubin with NVRTC, and the cache of cubins that an engine carries.

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "backends/cuda/target.h"

namespace tokamak::cuda {

using Cubin = std::shared_ptr<const std::vector<char>>;

// CUDA C++ to compile. `#include "x.cuh"` of a file in backends/cuda/device is replaced by its text; there are no other headers.
struct Source {
  std::string name;                  // for messages: "fused.relu_add"
  std::string code;                  // kernels are extern "C"
  std::vector<std::string> defines;  // "HEAD_DIM=128"; before everything else, so none is named like a template parameter
};

// The text of a file of backends/cuda/device, which the binary carries. Throws Internal when there is none of that name.
const std::string& device_file(const std::string& name);

// Cubins by key: a hash of the complete text, the defines and the architecture, so that code of another version of Tokamak is never taken.
// The compiler's version is not part of it: an engine that carries its cubins runs where NVRTC is not installed or another. Thread-safe.
// Owned by an engine, saved with it.
class CodeCache {
 public:
  // What `seed` has is taken from there instead of being compiled.
  explicit CodeCache(std::shared_ptr<const CodeCache> seed = nullptr) : seed_(std::move(seed)) {}

  // The cubin for `source`; compiled (and kept) when it is not there. Throws Unsupported when NVRTC is not installed, Internal with the
  // compiler's log when the text does not compile.
  struct Entry {
    std::string key;  // 32 hex digits
    Cubin cubin;
  };
  Entry get(const Source& source, const Target& target);

  // From an engine file. These few are inline: engines for a GPU load, and save, in builds without the backend too.
  void insert(std::string key, std::vector<char> cubin) {
    const std::lock_guard lock(mutex_);
    cubins_[std::move(key)] = std::make_shared<const std::vector<char>>(std::move(cubin));
  }
  // Ordered, so that files are reproducible.
  std::map<std::string, Cubin> entries() const {
    const std::lock_guard lock(mutex_);
    return cubins_;
  }

 private:
  Cubin find(const std::string& key) const;
  std::shared_ptr<const CodeCache> seed_;
  mutable std::mutex mutex_;
  std::condition_variable compiled_;
  std::map<std::string, Cubin> cubins_;
  std::set<std::string> compiling_;  // by some thread right now
};

}  // namespace tokamak::cuda
