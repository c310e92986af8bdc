#pragma once
// Tactics of the kernels built on device/mma_tile.cuh: "128x64,stages=4,split=2,rows=49"; "w128x256,..." multiplies by
// warpgroups (sm_90). `rows` is the size of the product that it was chosen for.

#include <string>
#include <vector>

#include "backends/cuda/target.h"

namespace tokamak::cuda {

struct MmaTile {
  int m = 64, n = 64, warps_m = 2, warps_n = 2;
  int stages = 4;
  int split = 1;  // blocks that share the tile's k, in one cluster
  bool wgmma = false;

  std::string name() const;  // a tactic without its `rows`
  unsigned threads() const { return static_cast<unsigned>(warps_m * warps_n * 32); }
  int shared_bytes() const;  // dynamic
  std::vector<std::string> defines() const;
  // Device code that goes before mma_tile.cuh and after prelude.cuh, for elements of the type named.
  std::string code(const std::string& element) const;
};

// `batch` products of [m, k] and [k, n]. `along_k`: both operands are stored along k, as warpgroups need them.
struct MmaProduct {
  int64_t m = 0, n = 0, k = 0, batch = 1;
  bool along_k = false;
};

// The likeliest fastest first by a model of the time, a handful.
std::vector<std::string> mma_tactics(const Target& target, const MmaProduct& product);

// The tile of a tactic; for a product of another size than the tactic's, the one that the model likes best. Throws Corrupt when the tactic
// is not one of those that mma_tactics() can give.
MmaTile mma_tile(const std::string& tactic, const Target& target, const MmaProduct& product);

}  // namespace tokamak::cuda
