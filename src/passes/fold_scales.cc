// matmul(x, W) * s with a constant matrix and a constant scalar or row goes into the matrix.

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

bool fold(Node* m) {
  for (int i = 0; i < 2; ++i) {
    Node* mm = sole_producer(m->input(i), "matmul");
    Value* s = m->input(1 - i);
    if (mm == nullptr || mm->attrs.has("epilogue") || mm->num_inputs() != 2 || !same_dims(m->input(i), m->output(0))) continue;
    Value* w = mm->input(1);
    if (!w->is_constant() || w->constant.dtype() != DType::F32 || w->constant.rank() != 2 || w->uses().size() != 1 ||
        !w->constant.layout().empty())
      continue;
    if (!s->is_constant() || s->constant.dtype() != DType::F32) continue;
    const bool transposed = mm->attrs.get_int("trans_b", 0) != 0;
    const int64_t n = w->constant.dim(transposed ? 0 : 1);
    const std::vector<float> scale = floats_of(s);
    if (scale.size() != 1 && !is_row_vector(s, Dim(n))) continue;
    Tensor scaled = w->constant.clone();
    float* p = scaled.data<float>();
    const int64_t rows = scaled.dim(0), cols = scaled.dim(1);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) p[r * cols + c] *= scale.size() == 1 ? scale[0] : scale[transposed ? r : c];
    Graph& graph = *m->graph();
    Value* v = graph.build("matmul", {mm->input(0), graph.add_constant(std::move(scaled), w->name)}, mm->attrs, m, mm->name);
    v->producer()->origin = merged_origin({mm, m});
    replace(m->output(0), v);
    return true;
  }
  return false;
}

}  // namespace

int fold_scales(Graph& graph, PassContext&) {
  int folded = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (!n->is("mul") || !fold(n)) continue;
    erase_if_dead(n);
    ++folded;
  }
  return folded;
}

}  // namespace tokamak::passes
