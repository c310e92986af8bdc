#pragma once
// The tiles of device/wgmma_flash.cuh, and boxes of tensors for the copy engine.

#include <cuda.h>

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {

// warpgroups of 64 query rows x keys a tile: "2x128". "simple 2x128" is not pipelined; "persistent 2x128" launches a block a
// multiprocessor, and tiles of queries go to them in a fixed order.
struct WgmmaTile {
  int warpgroups, keys;
  bool pipelined = true, persistent = false;

  static WgmmaTile parse(const std::string& tactic);
  int rows() const { return warpgroups * 64; }
  unsigned threads() const { return static_cast<unsigned>(warpgroups * 128 + 128); }
  // Blocks for so many tiles.
  unsigned grid(const Target& target, int64_t tiles) const {
    return static_cast<unsigned>(persistent ? std::min<int64_t>(tiles, target.num_sms) : tiles);
  }
  int shared_bytes(int64_t head_dim, DType source) const;
  std::vector<std::string> defines() const;  // WARPGROUPS, TILE_K, PIPELINED
  // product_scores and product_values of wgmma_flash.cuh: comes before it.
  std::string code(DType element, int64_t head_dim) const;
};

// `source`: dtype of keys and values. Tactics: the likeliest fastest first.
std::vector<std::string> wgmma_tactics(int64_t head_dim, DType source);
Support wgmma_supports(const Target& target, DType activation, DType source, int64_t head_dim);

// How many of `heads` heads to work on at a time so that what each reads, `head_bytes`, stays in the L2 cache: a divisor of heads.
int heads_together(const Target& target, int64_t heads, int64_t head_bytes);

// A tensor at `data`, sizes and strides (in bytes, of all axes but the innermost) from the innermost axis. Boxes have `box_rows` of the
// second axis and 1 of the others: of 16-bit floats 64 columns, swizzled by 128 bytes; of f8e4m3fn all columns as they are. What lies
// outside reads as zeros.
CUtensorMap box_map(DType dtype, const void* data, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, int box_rows);

}  // namespace tokamak::cuda
