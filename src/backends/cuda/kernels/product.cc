#include "backends/cuda/kernels/product.h"

#include <algorithm>

#include "backends/cuda/kernels/epilogue.h"

namespace tokamak::cuda {

Product::Product(const NodeView& node) {
  Shape a = node.input_shapes[0], b = node.input_shapes[1];
  row = a.size() == 1, column = b.size() == 1;
  trans_a = !row && node.attrs().get_bool("trans_a", false);
  trans_b = !column && node.attrs().get_bool("trans_b", false);
  if (row) a.insert(a.begin(), 1);
  if (column) b.push_back(1);
  const int64_t a_rows = a[a.size() - 2], a_cols = a.back(), b_rows = b[b.size() - 2], b_cols = b.back();
  m = trans_a ? a_cols : a_rows;
  k = trans_a ? a_rows : a_cols;
  n = trans_b ? b_rows : b_cols;
  const Shape a_lead(a.begin(), a.end() - 2), b_lead(b.begin(), b.end() - 2);
  const size_t rank = std::max(a_lead.size(), b_lead.size());
  batch.assign(rank, 1);
  for (const Shape* lead : {&a_lead, &b_lead})
    for (size_t i = 0; i < lead->size(); ++i)
      if ((*lead)[i] != 1) batch[rank - lead->size() + i] = (*lead)[i];
  CHECK(broadcast_strides(a_lead, batch, a_batch) && broadcast_strides(b_lead, batch, b_batch));
  for (int64_t& s : a_batch) s *= m * k;
  for (int64_t& s : b_batch) s *= k * n;
}

int64_t Product::batch_count() const { return num_elements(batch); }

void Product::merge_batch() {
  Shape sizes;
  std::vector<int64_t> a, b;
  for (size_t i = 0; i < batch.size(); ++i) {
    if (batch[i] == 1) continue;
    if (!sizes.empty() && a.back() == a_batch[i] * batch[i] && b.back() == b_batch[i] * batch[i])
      sizes.back() *= batch[i], a.back() = a_batch[i], b.back() = b_batch[i];
    else sizes.push_back(batch[i]), a.push_back(a_batch[i]), b.push_back(b_batch[i]);
  }
  batch = sizes, a_batch = a, b_batch = b;
}

void Product::flatten() {
  merge_batch();
  if (batch.size() != 1 || trans_a || b_batch[0] != 0 || a_batch[0] != m * k) return;
  m *= batch[0];
  batch.clear(), a_batch.clear(), b_batch.clear();
}

std::vector<std::string> Product::offset_defines() const {
  return {"A_OFFSET(z)=(" + strided_offset(batch, a_batch, "(z)") + ")", "B_OFFSET(z)=(" + strided_offset(batch, b_batch, "(z)") + ")"};
}

}  // namespace tokamak::cuda
