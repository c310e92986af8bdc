#pragma once
// Attention over the paged KV cache, by instruction set. One driver (paged_attention.cc) cuts a step into tiles: up to 32 rows of one
// sequence that share a kv head, a row being one new token under one query head, so that K and V are read once for a whole group of heads.
//
// The keys of a tile are taken in groups of 256, counted from position 0. Each group is attended on its own (scores, maximum, weights, sum
// of values), and the groups' results are merged in order of position, as in FlashAttention (arXiv:2205.14135) and its split form for
// decoding. So what a row gets depends on its own sequence alone: not on the tile it is in, hence not on how a prompt was cut into chunks,
// and not on whether groups were spread over threads.

#include "backends/cpu/kernels/kv_cache.h"

namespace tokamak::cpu {

constexpr int64_t kTileRows = 32;
constexpr int64_t kKeyGroup = 256;
constexpr int64_t kMaxHeadDim = 512;

// One run; tensors as in the op.
struct PagedAttention {
  const float* q = nullptr;
  const void* cache = nullptr;
  const int32_t* block_tables = nullptr;
  float* out = nullptr;
  KvCacheLayout layout;
  int64_t heads = 1, group = 1;  // query heads, and those that share a kv head
  int64_t blocks_per_seq = 0;
  int64_t window = 0;  // 0: none
  float scale = 1, softcap = 0;

  int64_t dim() const { return layout.head_dim; }
};

// Rows [row, row + rows) of a sequence under one kv head: row i is new token i / group under query head kv_head * group + i % group.
struct PagedTile {
  StepSequence sequence;
  int64_t kv_head, row, rows;

  int64_t position(int64_t i, int64_t group) const { return sequence.length - sequence.count + (row + i) / group; }  // may be negative
  // Keys that some row attends, as groups [first, end).
  int64_t first_key(const PagedAttention& a) const { return a.window > 0 ? std::max<int64_t>(0, position(0, a.group) - a.window + 1) : 0; }
  int64_t end_key(const PagedAttention& a) const { return std::max<int64_t>(0, position(rows - 1, a.group) + 1); }
  int64_t first_group(const PagedAttention& a) const { return first_key(a) / kKeyGroup; }
  int64_t end_group(const PagedAttention& a) const { return (end_key(a) + kKeyGroup - 1) / kKeyGroup; }
};

// The result of one key group for `rows` rows: floats [rows] maxima, [rows] sums of weights, [rows][dim] sums of weighted values.
inline int64_t partial_floats(int64_t rows, int64_t dim) { return rows * (dim + 2); }

struct PagedAttentionFunctions {
  const char* name;
  // Scratch of a thread.
  int64_t (*scratch_bytes)(int64_t dim);
  // All of a tile, to `out`.
  void (*tile)(const PagedAttention&, const PagedTile&, void* scratch);
  // One key group of it, to `partial`.
  void (*partial)(const PagedAttention&, const PagedTile&, int64_t key_group, float* partial, void* scratch);
  // Merges `count` partials (of the tile's groups in order, one behind the other) into the first, and that to `out`.
  void (*merge)(const PagedAttention&, const PagedTile&, float* partials, int64_t count);
};

const PagedAttentionFunctions& paged_attention_f32_avx512();
const PagedAttentionFunctions& paged_attention_f32_avx2();
// bf16 caches: widened to f32 exactly; or products of bf16 pairs, with the queries and the weights rounded to bf16 too.
const PagedAttentionFunctions& paged_attention_bf16_avx512();
const PagedAttentionFunctions& paged_attention_bf16_avx2();
const PagedAttentionFunctions& paged_attention_bf16_avx512_bf16();
const PagedAttentionFunctions& paged_attention_bf16_amx();  // head_dim a multiple of 32

}  // namespace tokamak::cpu
