#pragma once
// Scaled dot-product attention on float32 without the score matrix, by instruction set.

#include <cstdint>

namespace tokamak::cpu {

// One problem; all strides in elements. Rows (the last axis) are contiguous. `head` below is a query head; its keys are those of head /
// group.
struct AttentionProblem {
  const float *q = nullptr, *k = nullptr, *v = nullptr;
  float* out = nullptr;
  const void* mask = nullptr;  // null, bool (true = attend) or float (added)
  bool mask_is_bool = false;
  int64_t heads = 1, group = 1;
  int64_t queries = 1, keys = 1, depth = 1, value_depth = 1;
  int64_t q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row;
  int64_t mask_batch = 0, mask_head = 0, mask_row = 0, mask_col = 0;
  float scale = 1, softcap = 0;
  bool causal = false;  // query i sees keys j <= i + keys - queries
};

struct AttentionFunctions {
  int64_t block;  // queries of a task
  int64_t few;    // up to this many queries `single` is the faster way
  // Floats of workspace a thread needs.
  int64_t (*workspace_floats)(const AttentionProblem&);
  // Queries [first, first + count) of one head, count <= block.
  void (*tile)(const AttentionProblem&, int64_t batch, int64_t head, int64_t first, int64_t count, float* workspace);
  // One query: dot products along the row.
  void (*single)(const AttentionProblem&, int64_t batch, int64_t head, int64_t query, float* workspace);
};

const AttentionFunctions& attention_functions_avx512();
const AttentionFunctions& attention_functions_avx2();

}  // namespace tokamak::cpu
