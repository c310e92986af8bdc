#pragma once
// Dense attention's operands for the kernels of op `attention`, and the tiles of device/flash.cuh.

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {

// As in device/attention.cuh.
struct HeadStrides {
  int64_t batch, head, row;
};
struct AttentionArgs {
  HeadStrides q, k, v, y;
  int64_t mask[4];
  int heads, group, q_length, k_length, is_causal;
  float scale, softcap;
};

struct AttentionShape {
  int64_t batch, heads, kv_heads, q_length, k_length, head_dim, value_dim;
  DType dtype;
  bool has_mask;
  DType mask;
  int64_t first[3];  // where q, k and v begin within their tensors, in elements: packed projections
  AttentionArgs args;

  static AttentionShape of(const NodeView& node);
  // Why no kernel takes it, or yes.
  static Support check(const NodeView& node);
  // q, k or v of a run.
  const void* input(const RunArgs& args, int i) const {
    return static_cast<const char*>(args.inputs[i].raw()) + first[i] * bits_of(dtype) / 8;
  }
  std::vector<std::string> defines() const;  // ELEMENT, HEAD_DIM, VALUE_DIM, MASK, MASK_KIND
};

// A shape of the blocks of device/flash.cuh: warps along rows, warps along keys, keys a tile. Text: "4x1x64".
struct FlashTile {
  int warps_m, warps_n, keys;

  static FlashTile parse(const std::string& tactic);
  std::string text() const { return fmt::format("{}x{}x{}", warps_m, warps_n, keys); }
  int rows() const { return warps_m * 16; }
  int threads() const { return warps_m * warps_n * 32; }
  int shared_bytes(int64_t head_dim, int64_t value_dim) const;
  std::vector<std::string> defines() const;
};

// Tiles that fit the GPU, the likeliest fastest first, when tiles of 16 rows are `blocks_of_16` many.
std::vector<std::string> flash_tactics(const Target& target, int64_t head_dim, int64_t value_dim, int64_t blocks_of_16);

}  // namespace tokamak::cuda
