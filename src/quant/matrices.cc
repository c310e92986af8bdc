#include "quant/matrices.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <unordered_map>

#include "base/half.h"
#include "ir/op.h"

namespace tokamak::quant {
namespace {

bool is_product(const ir::Node* node) { return node->is("matmul") || node->is("quantized_matmul") || node->is("conv"); }

bool fits(const ir::Node* node) {
  if (!node->is("matmul") || node->input(0)->type.dtype != DType::F32) return false;
  const ir::Value* b = node->input(1);
  if (!b->is_constant() || b->constant.rank() != 2 || !b->constant.layout().empty() || b->constant.count() == 0) return false;
  const DType dtype = b->constant.dtype();
  return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16;
}

template <class F>
void with_loader(const Tensor& t, const F& f) {
  const void* p = t.raw();
  switch (t.dtype()) {
    case DType::F32: return f([p](int64_t i) { return static_cast<const float*>(p)[i]; });
    case DType::F16: return f([p](int64_t i) { return half_to_float(static_cast<const uint16_t*>(p)[i]); });
    case DType::BF16: return f([p](int64_t i) { return bfloat16_to_float(static_cast<const uint16_t*>(p)[i]); });
    default: CHECK(false);
  }
}

}  // namespace

std::vector<ConstantMatrix> constant_matrices(ir::Graph& graph) {
  std::vector<ConstantMatrix> out;
  std::unordered_map<const ir::Value*, size_t> known[2];
  ir::for_each_graph(graph, [&](ir::Graph& g) {
    for (ir::Node* node : g.nodes_snapshot()) {
      if (!fits(node)) continue;
      ir::Value* b = node->input(1);
      const bool is_nk = node->attrs.get_bool("trans_b", false);
      const auto [found, fresh] = known[is_nk].emplace(b, out.size());
      if (fresh) out.push_back({b, {}, is_nk, b->constant.dim(is_nk ? 0 : 1), b->constant.dim(is_nk ? 1 : 0)});
      out[found->second].products.push_back(node);
    }
  });
  return out;
}

void read_rows(const ConstantMatrix& m, int64_t begin, int64_t end, float* out) {
  with_loader(m.value->constant, [&](auto load) {
    if (m.is_nk) {
      for (int64_t i = begin * m.k; i < end * m.k; ++i) out[i - begin * m.k] = load(i);
      return;
    }
    for (int64_t i = 0; i < m.k; ++i)
      for (int64_t row = begin; row < end; ++row) out[(row - begin) * m.k + i] = load(i * m.n + row);
  });
}

Tensor converted(const Tensor& from, DType dtype, ThreadPool& pool) {
  Tensor out = Tensor::empty(dtype, from.shape());
  std::atomic<bool> overflow{false};
  with_loader(from, [&](auto load) {
    pool.parallel_for(from.count(), 1 << 16, [&](int64_t begin, int64_t end, int) {
      if (dtype == DType::F32) {
        for (int64_t i = begin; i < end; ++i) out.data<float>()[i] = load(i);
        return;
      }
      const uint16_t infinity = dtype == DType::F16 ? 0x7c00 : 0x7f80;
      bool bad = false;
      for (int64_t i = begin; i < end; ++i) {
        const float x = load(i);
        const uint16_t narrow = dtype == DType::F16 ? float_to_half(x) : float_to_bfloat16(x);
        out.data<uint16_t>()[i] = narrow;
        bad |= (narrow & 0x7fff) == infinity && std::isfinite(x);
      }
      if (bad) overflow = true;
    });
  });
  return overflow ? Tensor() : out;
}

bool is_head(const ir::Node* product) {
  const ir::Value* v = product->output(0);
  if (v->graph()->parent != nullptr) return false;
  while (!v->is_graph_output()) {
    if (v->uses().size() != 1) return false;
    const ir::Node* user = v->uses().front().node;
    if (is_product(user) || user->num_outputs() != 1 || user->graph() != v->graph()) return false;
    for (const ir::Value* in : user->inputs())
      if (in != nullptr && in != v && !in->is_constant()) return false;
    v = user->output(0);
  }
  return true;
}

void replace_products(const ConstantMatrix& m, const Tensor& b, const Tensor& scale, int64_t group_size) {
  ir::Graph& home = *m.value->graph();
  ir::Value* weights = home.add_constant(b, m.value->name);
  ir::Value* scales = home.add_constant(scale, m.value->name + ".scale");
  for (ir::Node* node : m.products) {
    std::vector<ir::Value*> inputs(node->inputs().begin(), node->inputs().end());
    inputs[1] = weights;
    inputs.insert(inputs.begin() + 2, scales);
    ir::Attrs attrs{{"group_size", group_size}};
    if (node->attrs.has("epilogue")) {
      attrs.set("epilogue", node->attrs.get_string("epilogue"));
      attrs.set("epilogue_input", node->attrs.get_int("epilogue_input") + 1);
    }
    ir::Graph& g = *node->graph();
    ir::Node* made = g.add_node("quantized_matmul", inputs, attrs, node->name, node);
    made->origin = node->origin;
    made->output(0)->name = node->output(0)->name;
    for (size_t i = 0; i < g.outputs().size(); ++i)
      if (g.outputs()[i] == node->output(0)) g.set_output(static_cast<int>(i), made->output(0));
    g.replace_all_uses(node->output(0), made->output(0));
    g.erase(node);
  }
  home.drop_unused_values();
}

}  // namespace tokamak::quant
