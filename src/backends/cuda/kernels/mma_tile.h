#pragma once
// Tactics of the kernels built on device/mma_tile.cuh: "128x64,stages=4,split=2"; "w128x256,..." multiplies by warpgroups (sm_90).

#include <string>
#include <vector>

#include "backends/cuda/target.h"

namespace tokamak::cuda {

struct MmaTile {
  int m = 64, n = 64, warps_m = 2, warps_n = 2;
  int stages = 4;
  int split = 1;  // blocks that share the tile's k, in one cluster
  bool wgmma = false;

  // Throws Corrupt when the tactic is not one of those that mma_tactics() can give.
  static MmaTile parse(const std::string& tactic, const Target& target);
  std::string tactic() const;
  unsigned threads() const { return static_cast<unsigned>(warps_m * warps_n * 32); }
  int shared_bytes() const;  // dynamic
  std::vector<std::string> defines() const;
  // Device code that goes before mma_tile.cuh and after prelude.cuh, for elements of the type named.
  std::string code(const std::string& element) const;
};

// For `batch` products of [m, k] and [k, n], the likeliest fastest first by a model of the time, a handful. `along_k`: both operands are
// stored along k, as warpgroups need them.
std::vector<std::string> mma_tactics(const Target& target, int64_t m, int64_t n, int64_t k, int64_t batch, bool along_k);

}  // namespace tokamak::cuda
