#pragma once
// What the kernels of kv_cache_write, paged_attention and cached_attention share: sizes, element types, the arguments that every kernel
// takes. On CUDA a cache is plain: [num_blocks, 2 (k, v), num_kv_heads, block_size, head_dim].

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {

// Of cache.cuh: passed to kernels as it is.
struct ScoreArgs {
  float scale, softcap;
};

struct PagedShape {
  int64_t heads, kv_heads, head_dim, block_size, num_blocks;
  DType activation, cache;
  // of attention
  int64_t rows = 0, sequences = 0, blocks_per_seq = 0;
  ScoreArgs score{};
  int window = 0;
  float v_scale = 1;

  static PagedShape of(const NodeView& node);  // of any of them
  int64_t group() const { return heads / kv_heads; }
  int64_t cache_rows() const { return num_blocks * 2 * kv_heads * block_size; }
  // Whether q and the cache are what tensor cores multiply without rounding anything more.
  Support for_tensor_cores() const;
  std::vector<std::string> defines() const;  // HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, ACTIVATION, CACHE
};

// The name of a cache's element type in device code (device/cache.cuh), or "".
std::string cache_type(DType dtype);
// Elements of up to 16 bytes that one load takes of a row of `size`: a power of two dividing it.
int64_t load_width(int64_t size, int64_t element_bytes);

// A paged_attention kernel of device code: `attend` writes the output, or, with splits, partial sums to the workspace that `combine` adds
// up.
class PagedAttention : public Kernel {
 public:
  PagedAttention(const PagedShape& shape, int splits, Function attend, const Launch& launch, Function combine)
      : shape_(shape), splits_(splits), attend_(std::move(attend)), combine_(std::move(combine)), launch_(launch) {}
  int64_t workspace_bytes() const override {
    return splits_ == 1 ? 0 : shape_.rows * shape_.heads * splits_ * (shape_.head_dim + 2) * static_cast<int64_t>(sizeof(float));
  }
  void run(const RunArgs& args) const override;

 private:
  PagedShape shape_;
  int splits_;
  Function attend_, combine_;
  Launch launch_;
};

// Into how many splits each row's tokens go so that `blocks` blocks without splitting fill the GPU once, but no more than the longest
// sequence has tiles of `tile` tokens.
constexpr int kMostSplits = 64;
int choose_splits(const PagedShape& shape, const Target& target, int64_t blocks, int blocks_per_sm, int64_t tile);

}  // namespace tokamak::cuda
