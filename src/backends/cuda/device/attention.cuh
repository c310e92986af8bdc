// Dense attention's operands, as kernels/attention.cc passes them. MASK_KIND: 0 none, 1 bool (what is true is seen), 2 a float that is
// added; MASK: its element type.
#pragma once
#include "prelude.cuh"

struct HeadStrides {
  int64_t batch, head, row;  // in elements
};

struct AttentionArgs {
  HeadStrides q, k, v, y;
  int64_t mask[4];   // strides: batch, head, query, key; 0 repeats
  int heads, group;  // query heads, and how many share a kv head
  int q_length, k_length, is_causal;
  float scale, softcap;

  // Keys that query `i` sees, from 0.
  DEVICE int visible(int i) const { return is_causal ? min(max(i + k_length - q_length + 1, 0), k_length) : k_length; }
  // q k as the score that exp takes; mask_row: of the query.
  template <class T>
  DEVICE float finish(float x, const T* mask_row, int key) const {
    x = softcap > 0.f ? softcap * tanhf(x * scale / softcap) : x * scale;
    if constexpr (MASK_KIND == 1) return mask_row[key * mask[3]] ? x : Max::identity();
    if constexpr (MASK_KIND == 2) return x + to_float(mask_row[key * mask[3]]);
    return x;
  }
};
