#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "backends/cuda/device.h"

namespace tokamak::test {

// By how many bytes the GPU's free memory is smaller after `load_and_run` ran 100 times; what the driver keeps for itself from the first
// times does not count. Free memory is the whole GPU's, and other processes come and go: the least of three attempts.
inline int64_t bytes_left_behind(const cuda::Device& device, const std::function<void()>& load_and_run) {
  for (int i = 0; i < 3; ++i) load_and_run();
  int64_t least = INT64_MAX;
  for (int attempt = 0; attempt < 3 && least > 4 << 20; ++attempt) {
    const int64_t before = device.free_bytes();
    for (int i = 0; i < 100; ++i) load_and_run();
    least = std::min(least, before - device.free_bytes());
  }
  return least;
}

}  // namespace tokamak::test
