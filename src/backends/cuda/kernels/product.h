#pragma once
// The shapes of a matrix product, read once from a node.

#include <string>
#include <vector>

#include "runtime/kernel.h"

namespace tokamak::cuda {

// NumPy's matmul as a batch of C[m, n] = A[m, k] B[k, n]. 1-D operands have m or n = 1.
struct Product {
  int64_t m = 1, n = 1, k = 1;
  bool trans_a = false, trans_b = false;  // A is stored [k, m], B is stored [n, k]
  Shape batch;                            // of the output
  std::vector<int64_t> a_batch, b_batch;  // per dimension of batch, in elements; 0 where the operand repeats
  bool row = false, column = false;       // a or b is 1-D

  explicit Product(const NodeView& node);
  int64_t batch_count() const;
  int64_t a_row() const { return trans_a ? 1 : k; }
  int64_t a_col() const { return trans_a ? m : 1; }
  int64_t b_row() const { return trans_b ? 1 : n; }
  int64_t b_col() const { return trans_b ? k : 1; }
  // One b for all items and a not transposed: the items' rows follow each other, one taller product.
  void flatten();
  // Neighbouring batch dimensions that both operands walk through with one stride become one; dimensions of size 1 go.
  void merge_batch();
  // `#define A_OFFSET(z)` and `B_OFFSET(z)` of batch item z, as defines of a Source.
  std::vector<std::string> offset_defines() const;
};

}  // namespace tokamak::cuda
