#pragma once
// Tactics of the kernels built on device/mma_tile.cuh: "128x64,stages=4,split=2".

#include <string>
#include <vector>

#include "backends/cuda/target.h"

namespace tokamak::cuda {

struct MmaTile {
  int m = 64, n = 64, warps_m = 2, warps_n = 2;
  int stages = 4;
  int split = 1;  // blocks that share the tile's k, in one cluster

  // Throws Corrupt when the tactic is not one of those that mma_tactics() can give.
  static MmaTile parse(const std::string& tactic, const Target& target);
  std::string tactic() const;
  unsigned threads() const { return static_cast<unsigned>(warps_m * warps_n * 32); }
  int shared_bytes() const;  // dynamic
  std::vector<std::string> defines() const;
};

// For `batch` products of [m, k] and [k, n], the likeliest fastest first by a model of the time, a handful.
std::vector<std::string> mma_tactics(const Target& target, int64_t m, int64_t n, int64_t k, int64_t batch);

}  // namespace tokamak::cuda
