#pragma once
// The kernels of paged_attention for decoding and for prefill, as far as steps with both take them too.

#include "backends/cuda/kernels/paged_attention.h"
#include "backends/cuda/kernels/wgmma_flash.h"

namespace tokamak::cuda {

// device/paged_decode.cu: how heads become blocks.
struct PagedDecodeTile {
  int64_t head_tiles, heads, unroll, groups;  // heads: of the query, a block; groups: blocks along y

  explicit PagedDecodeTile(const PagedShape& s);
  int shared_bytes(const PagedShape& s, int64_t warps) const { return static_cast<int>(warps * heads * (s.head_dim + 2) * 4); }
  // `singles`: SINGLES of the file.
  std::vector<std::string> defines(const PagedShape& s, int64_t warps, bool singles, bool side_by_side) const;
};

// device/paged_boxes.cuh, by what includes it.
struct PagedBoxes {
  WgmmaTile tile;
  int box_rows, heads_together;

  PagedBoxes(const PagedShape& s, const Target& target, const WgmmaTile& tile);
  static Support supports(const PagedShape& s, const Target& target);
  Source source(const PagedShape& s, const std::string& name, const std::string& file) const;
  CUtensorMap map(const PagedShape& s, const Tensor& cache) const;
};

}  // namespace tokamak::cuda
