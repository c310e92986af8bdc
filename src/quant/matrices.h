#pragma once
// The constant matrices of a graph that products multiply by: what the formats of this folder change.

#include <vector>

#include "backends/cpu/thread_pool.h"
#include "ir/graph.h"

namespace tokamak::quant {

// A dense f32, f16 or bf16 constant and the f32 matmuls that have it as b.
struct ConstantMatrix {
  ir::Value* value = nullptr;
  std::vector<ir::Node*> products;
  bool is_nk = false;  // [N,K], products have trans_b; else [K,N]
  int64_t n = 0, k = 0;
};

// Of the graph and its subgraphs, in order of first use.
std::vector<ConstantMatrix> constant_matrices(ir::Graph& graph);

// Rows [begin, end) of the matrix as [N,K], in f32: out[(row - begin) * k + i].
void read_rows(const ConstantMatrix& m, int64_t begin, int64_t end, float* out);

// A dense f32, f16 or bf16 tensor with every element in another dtype of these. Undefined when a finite value would become infinite.
Tensor converted(const Tensor& from, DType dtype, ThreadPool& pool);

// The product is the last before an output of the main graph, with nothing but one-input work behind it: a classifier, a language model's
// head.
bool is_head(const ir::Node* product);

// Makes each product of the matrix a quantized_matmul with integers `b` [N,K] and their `scale` [N, ceil(K/group_size)].
void replace_products(const ConstantMatrix& m, const Tensor& b, const Tensor& scale, int64_t group_size);

}  // namespace tokamak::quant
