// Shape arithmetic. Values whose integers are known become constants; reshape, expand, slice and fill whose shape inputs are known
// expressions of the model's symbols carry them as attributes. The Shape, Gather, Unsqueeze and Concat chains that exporters write for
// dynamic axes then have no users left.

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

bool known_constant(Node* n) {
  bool changed = false;
  for (Value* v : n->outputs()) {
    if (v == nullptr || v->uses().empty() || !v->type.is_static()) continue;
    const DType t = v->type.dtype;
    if (t != DType::I64 && t != DType::I32 && t != DType::Bool) continue;
    const auto ints = v->ints ? known_ints(v) : std::nullopt;
    if (!ints) continue;
    const Shape shape = v->type.static_shape();
    if (num_elements(shape) != static_cast<int64_t>(ints->size())) continue;
    Tensor c = Tensor::empty(t, shape);
    for (size_t i = 0; i < ints->size(); ++i) {
      if (t == DType::I64) c.data<int64_t>()[i] = (*ints)[i];
      else if (t == DType::I32) c.data<int32_t>()[i] = static_cast<int32_t>((*ints)[i]);
      else c.data<bool>()[i] = (*ints)[i] != 0;
    }
    const std::vector<ir::Use> uses(v->uses().begin(), v->uses().end());
    Value* constant = n->graph()->add_constant(std::move(c));
    for (const ir::Use& u : uses) u.node->set_input(u.index, constant);
    changed = true;
  }
  return changed;
}

void keep_first_input(Node* n) {
  while (n->num_inputs() > 1) n->remove_input(n->num_inputs() - 1);
}

// reshape, expand: the inferred output shape is the attribute.
bool shape_attribute(Node* n) {
  const Value* out = n->output(0);
  if (n->num_inputs() < 2 || n->input(1) == nullptr || !out->type.ranked || !only_input_symbols(*n->graph(), out->type.dims)) return false;
  keep_first_input(n);
  n->attrs.set("shape", out->type.dims);
  n->attrs.erase("allowzero");
  return true;
}

bool fill(Node* n) {
  const Value* out = n->output(0);
  if (n->num_inputs() < 1 || n->input(0) == nullptr || !out->type.ranked || !only_input_symbols(*n->graph(), out->type.dims)) return false;
  n->set_inputs({});
  n->attrs.set("shape", out->type.dims);
  return true;
}

std::optional<Dims> known_dims(const Value* v) {
  if (auto ints = known_ints(v)) return Dims(ints->begin(), ints->end());
  return v->ints;
}

bool slice(Node* n) {
  if (n->num_inputs() < 3 || !n->input(0)->type.ranked) return false;
  const auto starts = known_dims(n->input(1)), ends = known_dims(n->input(2));
  if (!starts || !ends || !only_input_symbols(*n->graph(), *starts) || !only_input_symbols(*n->graph(), *ends)) return false;
  Ints axes, steps(starts->size(), 1);
  if (n->input(3) != nullptr) {
    const auto given = known_ints(n->input(3));
    if (!given) return false;
    axes = normalized_axes(*given, n->input(0)->type.rank());
  } else {
    for (size_t i = 0; i < starts->size(); ++i) axes.push_back(static_cast<int64_t>(i));
  }
  if (n->input(4) != nullptr) {
    const auto given = known_ints(n->input(4));
    if (!given) return false;
    steps = *given;
  }
  keep_first_input(n);
  n->attrs.set("starts", *starts);
  n->attrs.set("ends", *ends);
  n->attrs.set("axes", axes);
  n->attrs.set("steps", steps);
  return true;
}

// pad, split and reductions whose second input has become known.
bool pad(Node* n) {
  const auto pads = known_ints(n->input(1));
  if (!pads || (n->input(3) != nullptr && !known_ints(n->input(3)))) return false;
  if (n->input(3) != nullptr) n->attrs.set("axes", *known_ints(n->input(3)));
  n->attrs.set("pads", *pads);
  const Value* value = n->input(2);
  if (value != nullptr && is_float(value) && value->is_constant() && value->constant.count() == 1) {
    n->attrs.set("value", value->constant.float_at(0));
    value = nullptr;
  }
  if (value == nullptr) keep_first_input(n);
  else n->set_inputs({n->input(0), nullptr, n->input(2)});
  return true;
}

bool split(Node* n) {
  const auto sizes = known_dims(n->input(1));
  if (!sizes || !only_input_symbols(*n->graph(), *sizes)) return false;
  keep_first_input(n);
  n->attrs.set("sizes", *sizes);
  return true;
}

bool reduction(Node* n) {
  const auto axes = known_ints(n->input(1));
  if (!axes || axes->empty() || !n->input(0)->type.ranked) return false;
  keep_first_input(n);
  n->attrs.set("axes", normalized_axes(*axes, n->input(0)->type.rank()));
  return true;
}

// One integer that is exactly an input's dimension: read it from that input directly, so that equal ones merge.
bool dimension_of_input(Node* n) {
  Value* v = n->output(0);
  if (n->num_outputs() != 1 || v->uses().empty() || v->type.dtype != DType::I64 || !v->type.ranked || v->type.rank() > 1 || !v->ints ||
      v->ints->size() != 1 || n->graph()->parent != nullptr)
    return false;
  const auto symbol = (*v->ints)[0].as_symbol();
  if (!symbol) return false;
  for (Value* in : n->graph()->inputs()) {
    for (int64_t axis = 0; axis < in->type.rank(); ++axis) {
      if (in->type.dims[axis].as_symbol() != symbol) continue;
      const Attrs attrs{{"start", axis}, {"end", axis + 1}};
      Node* made_by = v->type.rank() == 0 && n->is("reshape") ? producer(n->input(0), "shape") : n->is("shape") ? n : nullptr;
      if (made_by != nullptr && made_by->input(0) == in) return false;
      Value* dim = n->graph()->build("shape", {in}, attrs, n);
      if (v->type.rank() == 0) dim = n->graph()->build("reshape", {dim}, {{"shape", Dims{}}}, n);
      const std::vector<ir::Use> uses(v->uses().begin(), v->uses().end());
      for (const ir::Use& u : uses) u.node->set_input(u.index, dim);
      return true;
    }
  }
  return false;
}

}  // namespace

int simplify_shapes(Graph& graph, PassContext&) {
  int rewrites = 0;
  for (Node* n : graph.nodes_snapshot()) {
    if (n->op().has(ir::kControlFlow) || !n->op().is_pure()) continue;
    if (known_constant(n)) {
      ++rewrites;
      continue;
    }
    bool changed = false;
    if (n->is("reshape") || n->is("expand")) changed = shape_attribute(n);
    else if (n->is("fill")) changed = fill(n);
    else if (n->is("slice")) changed = slice(n);
    else if (n->input(1) != nullptr && n->is("pad")) changed = pad(n);
    else if (n->input(1) != nullptr && n->is("split")) changed = split(n);
    else if (n->input(1) != nullptr && n->op().name.starts_with("reduce_")) changed = reduction(n);
    if (!changed && n->num_outputs() > 0 && n->output(0) != nullptr) changed = dimension_of_input(n);
    rewrites += changed;
  }
  return rewrites;
}

}  // namespace tokamak::passes
