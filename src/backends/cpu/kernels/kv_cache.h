#pragma once
// The CPU backend's paged KV cache: the order of elements inside a plane, and how the integers of a step are read. Shared by the reference
// and the fast kernels.
//
// A cache is [num_blocks, 2 (k, v), num_kv_heads, block_size, head_dim]. A [block_size, head_dim] plane is cut into fragments of 16 tokens,
// and a fragment is laid out so that both products read it front to back:
//   f32   K [head_dim][16 tokens]           16 keys are one vector; scores add up over head_dim
//         V [16 tokens][head_dim]           values add up over tokens
//   bf16  K [head_dim / 2][16 tokens][2]    pairs along the axis that is summed, as vdpbf16ps and an AMX B tile take them
//         V [8][head_dim][2 tokens]
// So block_size is a multiple of 16 and head_dim even.

#include <algorithm>
#include <cstdint>

#include "runtime/kernel.h"

namespace tokamak::cpu {

constexpr int64_t kFragment = 16;  // tokens

struct KvCacheLayout {
  int64_t num_blocks = 0, kv_heads = 1, block_size = kFragment, head_dim = 2;
  bool is_bf16 = false;

  static KvCacheLayout of(const Shape& shape, DType dtype) { return {shape[0], shape[2], shape[3], shape[4], dtype == DType::BF16}; }

  int64_t num_slots() const { return num_blocks * block_size; }
  int64_t plane_elements() const { return block_size * head_dim; }
  int64_t fragment_elements() const { return kFragment * head_dim; }
  // Where a plane starts, in elements: which = 0 keys, 1 values.
  int64_t plane(int64_t block, int64_t which, int64_t head) const { return ((block * 2 + which) * kv_heads + head) * plane_elements(); }
  // Element d of token j of a block, from the start of its plane.
  int64_t key(int64_t j, int64_t d) const {
    const int64_t fragment = j / kFragment * fragment_elements(), t = j % kFragment;
    return fragment + (is_bf16 ? (d / 2 * kFragment + t) * 2 + d % 2 : d * kFragment + t);
  }
  int64_t value(int64_t j, int64_t d) const { return is_bf16 ? (j / 2 * head_dim + d) * 2 + j % 2 : j * head_dim + d; }
};

// The memory of the cache that kv_cache_write fills: the one input in the system that a kernel writes (OpDef::written_input). It is the
// caller's tensor, handed in as a graph input; ir::verify sees to it that it is never a constant or an activation.
inline void* writable_cache(const RunArgs& args) { return const_cast<void*>(args.inputs[1].raw()); }

// Tokens that a row of the block table can name; lengths are i32 anyway.
inline int64_t sequence_capacity(int64_t blocks_per_seq, int64_t block_size) {
  return std::min<int64_t>(blocks_per_seq, INT32_MAX) * block_size;
}
// The `window` attribute; positions are i32, so a greater one is the same.
inline int64_t window_of(const NodeView& node) { return std::min<int64_t>(node.attrs().get_int("window", 0), INT32_MAX); }

// One sequence's part in a step: rows [first, first + count) of q sit at positions [length - count, length).
struct StepSequence {
  int64_t index, first, count, length;
};

// Calls f(StepSequence) for each sequence with new tokens, rows ascending. The integers come from the caller and are not trusted: starts
// that go backwards or past `tokens` and lengths past the block table are clamped, so that no row belongs to two sequences. `count` may
// still exceed `length`: the rows whose position would be negative attend to nothing.
template <class F>
void for_each_sequence(const int32_t* query_starts, const int32_t* seq_lens, int64_t seqs, int64_t tokens, int64_t capacity, const F& f) {
  int64_t done = 0;
  for (int64_t s = 0; s < seqs; ++s) {
    const int64_t first = std::clamp<int64_t>(query_starts[s], done, tokens), end = std::clamp<int64_t>(query_starts[s + 1], first, tokens);
    done = end;
    if (end > first) f(StepSequence{s, first, end - first, std::clamp<int64_t>(seq_lens[s], 0, capacity)});
  }
}

}  // namespace tokamak::cpu
