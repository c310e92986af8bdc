// Linear layers of language models become `linear`: products with constant matrices [N, K], with the rms_norm before them when nothing else
// reads its result, and as one product where a gate and up meet in "act(x gate^T) * (x up^T)". For backends with kernels for that; after
// the choice of types, which is made for products. Other products follow where some product took a norm or a gate: in language models.

#include <cstring>

#include "ir/expr.h"
#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

constexpr int64_t kRun = 8;  // rows of the gate, then of up

// One matrix product with weights [N, K].
bool is_layer(const Node* n) {
  if (n->num_outputs() != 1 || !n->kernel.empty()) return false;
  const bool is_quantized = n->is("quantized_matmul");
  if (!is_quantized && !n->is("matmul")) return false;
  for (int i = 1; i <= (is_quantized ? 2 : 1); ++i) {
    const Value* v = n->input(i);
    if (v == nullptr || !v->is_constant() || v->constant.rank() != 2 || !v->constant.layout().empty()) return false;
  }
  const auto is_activation = [](DType d) { return d == DType::F32 || d == DType::F16 || d == DType::BF16; };
  if (!is_activation(n->input(0)->type.dtype) || rank_of(n->input(0)) < 2) return false;
  if (is_quantized) return true;
  return is_activation(n->input(1)->type.dtype) && n->attrs.get_bool("trans_b", false) && !n->attrs.get_bool("trans_a", false) &&
         n->attrs.get_float("alpha", 1) == 1 && (n->attrs.has("epilogue") ? n->attrs.get_int("epilogue_input") == 2 : n->num_inputs() == 2);
}

int64_t first_extra(const Node* layer) {
  return layer->attrs.has("epilogue") ? layer->attrs.get_int("epilogue_input") : layer->num_inputs();
}

// The norm before a layer, when only layers read its result.
Node* norm_of(const Node* layer) {
  Node* norm = producer(layer->input(0), "rms_norm");
  if (norm == nullptr || norm->graph() != layer->graph() || norm->num_outputs() != 1 || norm->num_inputs() != 2) return nullptr;
  const Value* weight = norm->input(1);
  const int64_t rank = rank_of(norm->input(0)), axis = norm->attrs.get_int("axis", -1);
  if (weight == nullptr || !weight->is_constant() || weight->constant.rank() != 1 || !is_float(weight) || (axis != -1 && axis != rank - 1))
    return nullptr;
  if (weight->constant.dim(0) != layer->input(1)->constant.dim(1)) return nullptr;
  if (norm->output(0)->is_graph_output()) return nullptr;
  for (const ir::Use& use : norm->output(0)->uses())
    if (use.node->graph() != layer->graph() || use.index != 0 || !(is_layer(use.node) || use.node->is("linear"))) return nullptr;
  return norm;
}

struct Gate {
  Node* up = nullptr;
  std::string function;
};

// `gate` is act(x w^T) * up where `up` is another layer of the same x, kind and size that nothing else reads.
std::optional<Gate> gate_of(const Node* gate) {
  if (!gate->attrs.has("epilogue") || gate->num_inputs() != first_extra(gate) + 1) return std::nullopt;
  const ir::Expr expr = ir::Expr::parse(gate->attrs.get_string("epilogue"));
  if (expr.code.size() != 2 || expr.results.size() != 1) return std::nullopt;
  using Operand = ir::ExprOperand;
  const auto& [act, mul] = std::pair(expr.code[0], expr.code[1]);
  const Operand sum{Operand::Input, 0}, other{Operand::Input, 1}, first{Operand::Temp, 0}, second{Operand::Temp, 1};
  const auto is_product = [&](const Operand& a, const Operand& b) { return mul.operands[0] == a && mul.operands[1] == b; };
  if (act.function != "silu" && act.function != "gelu" && act.function != "gelu_tanh") return std::nullopt;
  if (act.operands[0] != sum || mul.function != "mul" || !(is_product(first, other) || is_product(other, first)) ||
      expr.results[0] != second)
    return std::nullopt;
  Value* v = gate->input(static_cast<int>(first_extra(gate)));
  Node* up = v != nullptr ? v->producer() : nullptr;
  if (up == nullptr || up == gate || !is_layer(up) || up->op().name != gate->op().name || up->attrs.has("epilogue") || !v->has_one_use())
    return std::nullopt;
  if (up->graph() != gate->graph() || up->input(0) != gate->input(0) || up->attrs.has("out_dtype") || gate->attrs.has("out_dtype"))
    return std::nullopt;
  for (int i = 1; i < up->num_inputs(); ++i)
    if (up->input(i)->type != gate->input(i)->type) return std::nullopt;
  if (up->attrs.get_int("group_size", 0) != gate->attrs.get_int("group_size", 0)) return std::nullopt;
  if (up->attrs.get_string("activation", "") != gate->attrs.get_string("activation", "")) return std::nullopt;
  const Tensor& w = up->input(1)->constant;
  if (w.dim(0) % kRun != 0 || w.dim(1) * bits_of(w.dtype()) % 8 != 0) return std::nullopt;
  return Gate{up, act.function};
}

// Rows of both in turn, kRun each.
Tensor interleaved(const Tensor& gate, const Tensor& up) {
  Tensor out = Tensor::empty(gate.dtype(), {2 * gate.dim(0), gate.dim(1)});
  const int64_t bytes = kRun * gate.dim(1) * bits_of(gate.dtype()) / 8;
  auto* to = static_cast<std::byte*>(out.raw());
  for (int64_t i = 0; i < gate.dim(0) / kRun; ++i)
    for (const Tensor* from : {&gate, &up}) {
      std::memcpy(to, static_cast<const std::byte*>(from->raw()) + i * bytes, static_cast<size_t>(bytes));
      to += bytes;
    }
  return out;
}

void make_linear(Node* layer, Node* norm, const std::optional<Gate>& gate) {
  Graph& graph = *layer->graph();
  const bool is_quantized = layer->is("quantized_matmul");
  std::vector<Value*> inputs{norm ? norm->input(0) : layer->input(0), layer->input(1), is_quantized ? layer->input(2) : nullptr,
                             norm ? norm->input(1) : nullptr};
  std::vector<const Node*> nodes;
  if (norm) nodes.push_back(norm);
  nodes.push_back(layer);
  Attrs attrs;
  for (const char* name : {"group_size", "activation", "out_dtype"})
    if (const auto* value = layer->attrs.find(name)) attrs.set(name, *value);
  if (norm) attrs.set("epsilon", norm->attrs.get_float("epsilon", 1e-5));
  if (gate) {
    attrs.set("gate", gate->function);
    nodes.push_back(gate->up);
    for (int i = 1; i <= (is_quantized ? 2 : 1); ++i)
      inputs[i] = graph.add_constant(interleaved(layer->input(i)->constant, gate->up->input(i)->constant), layer->input(i)->name);
  } else if (layer->attrs.has("epilogue")) {
    attrs.set("epilogue", layer->attrs.get_string("epilogue"));
    attrs.set("epilogue_input", int64_t{4});
    for (int i = static_cast<int>(first_extra(layer)); i < layer->num_inputs(); ++i) inputs.push_back(layer->input(i));
  }
  while (inputs.back() == nullptr) inputs.pop_back();
  Value* y = graph.build("linear", inputs, attrs, layer, layer->name);
  y->producer()->origin = merged_origin(nodes);
  replace(layer->output(0), y);
  erase_if_dead(layer);
  graph.drop_unused_values();  // the single matrices: as large as the one of both
}

enum class Stage { Gates, Norms, Others };

}  // namespace

int fuse_linear(Graph& graph, PassContext&) {
  // Gates first: up is a layer with the same norm. Nodes that go with a layer come before it, so that the list stays good.
  int fused = 0;
  for (const auto stage : {Stage::Gates, Stage::Norms, Stage::Others}) {
    if (stage == Stage::Others && fused == 0) break;
    for (Node* n : graph.nodes_snapshot()) {
      if (!is_layer(n)) continue;
      const std::optional<Gate> gate = stage == Stage::Gates ? gate_of(n) : std::nullopt;
      Node* norm = stage == Stage::Others ? nullptr : norm_of(n);
      if (stage == Stage::Gates ? !gate : stage == Stage::Norms && norm == nullptr) continue;
      make_linear(n, norm, gate);
      ++fused;
    }
  }
  return fused;
}

}  // namespace tokamak::passes
