#pragma once
// A graph in 16-bit floats, f16 or bf16: for backends whose kernels take them and accumulate in float32.

#include <map>
#include <string>
#include <vector>

#include "quant/ranges.h"

namespace tokamak::quant {

struct HalfOptions {
  DType dtype = DType::F16;        // or BF16
  const Ranges* ranges = nullptr;  // of this very graph; null: nothing is kept for its range
  // A value that the ranges show to pass it stays float32, and what makes and reads it does. A quarter of f16's largest: inputs are made
  // up.
  double most = 16384;
  // So does one whose largest element is below it (but not 0): f16 has fixed steps of 2^-24 down there.
  double least = 0x1p-12;
};

struct HalfReport {
  int nodes = 0;                            // whose float results are 16 bits wide
  std::map<std::string, int> kept;          // op -> nodes that stay float32 by their nature
  std::vector<std::string> kept_for_range;  // "layer (3.1e+05)": what stays float32 because it is large
  std::vector<std::string> refused;         // "op: why": ops whose inference takes float32 only
};

// Runs on the optimized graph, so that every fusion is already made: values change their type in place, and casts stand only where 16 and
// 32 bits meet. Graph inputs and outputs keep their types. Stay float32: what comes from integers (positions, angles, masks) until a 16-bit
// value joins, quantization and random generators, running sums, boxes, what subgraphs use, and what HalfOptions::ranges shows to be too
// large or too small. Constants are converted where the node that reads them works in 16 bits.
HalfReport floats_to_half(ir::Graph& graph, const HalfOptions& options, ThreadPool& pool);

}  // namespace tokamak::quant
