// A slice moves above what works row by row, so that rows nobody reads are not computed: vision transformers classify by the first token
// and read nothing else of the last layer. One index that is gathered counts as a slice.

#include <algorithm>

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

// Elements [start, start + size) of one axis.
struct Part {
  int64_t axis = 0, start = 0, size = 0;
};

std::optional<Part> part_of(const Node* n) {
  const bool is_gather = n->is("gather");
  if (!is_gather && !n->is("slice")) return std::nullopt;
  if (rank_of(n->input(0)) < 2 || n->input(0)->is_constant()) return std::nullopt;
  Part part;
  if (is_gather) {
    const auto index = scalar_of(n->input(1));
    if (!index || rank_of(n->input(1)) != 0) return std::nullopt;
    part.axis = normalized_axes({n->attrs.get_int("axis", 0)}, rank_of(n->input(0)))[0];
    part.start = static_cast<int64_t>(*index), part.size = 1;
  } else {
    if (n->num_inputs() != 1 || !n->attrs.has("axes") || !n->attrs.has("starts")) return std::nullopt;
    const Ints axes = n->attrs.get_ints("axes"), steps = n->attrs.get_ints("steps", {});
    const Dims starts = n->attrs.get_dims("starts");
    if (axes.size() != 1 || (!steps.empty() && steps[0] != 1) || !starts[0].is_const()) return std::nullopt;
    part.axis = normalized_axes(axes, rank_of(n->input(0)))[0];
    const Dim& size = n->output(0)->type.dims[part.axis];
    if (!size.is_const()) return std::nullopt;
    part.start = starts[0].value(), part.size = size.value();
  }
  const Dim& length = n->input(0)->type.dims[part.axis];
  if (!length.is_const()) return std::nullopt;
  if (part.start < 0) part.start += length.value();
  const bool inside = part.start >= 0 && part.size >= 1 && part.start + part.size <= length.value();
  // Only where much is saved: each input of what is passed is copied once.
  return inside && 2 * part.size <= length.value() ? std::optional(part) : std::nullopt;
}

Value* slice(Value* v, const Part& p, int64_t axis, Node* before) {
  return before->graph()->build("slice", {v}, {{"axes", Ints{axis}}, {"starts", Dims{Dim(p.start)}}, {"ends", Dims{Dim(p.start + p.size)}}},
                                before);
}

// `n`, of which only the part is read, from parts of its inputs; null when its rows are not independent.
Value* narrowed(Node* n, const Part& p, Node* before) {
  if (n->num_outputs() != 1 || n->attrs.has("epilogue")) return nullptr;
  const Dims& dims = n->output(0)->type.dims;
  const int64_t rank = static_cast<int64_t>(dims.size());
  std::vector<Value*> inputs(n->inputs().begin(), n->inputs().end());
  Attrs attrs = n->attrs;
  if (n->op().is_pointwise() && !n->is("fused") && !n->is("quantize") && !n->is("dequantize")) {
    for (Value*& v : inputs) {
      if (v == nullptr) continue;
      const int64_t axis = p.axis - (rank - rank_of(v));
      if (rank_of(v) < 0) return nullptr;
      if (axis < 0 || v->type.dims[axis].is(1)) continue;
      if (!(v->type.dims[axis] == dims[p.axis])) return nullptr;
      v = slice(v, p, axis, before);
    }
  } else if (n->is("layer_norm") || n->is("rms_norm")) {
    if (normalized_axes({attrs.get_int("axis", -1)}, rank)[0] <= p.axis) return nullptr;
    inputs[0] = slice(inputs[0], p, p.axis, before);
  } else if (n->is("matmul")) {
    if (p.axis == rank - 1 || rank_of(inputs[1]) != 2 || rank_of(inputs[0]) != rank || attrs.get_int("trans_a", 0) != 0) return nullptr;
    inputs[0] = slice(inputs[0], p, p.axis, before);
  } else if (n->is("reshape")) {
    // The axis and those before it stay as they are.
    const Value* x = inputs[0];
    if (n->num_inputs() != 1 || rank_of(x) <= p.axis) return nullptr;
    for (int64_t i = 0; i <= p.axis; ++i)
      if (!(x->type.dims[i] == dims[i])) return nullptr;
    Dims shape = dims;
    shape[p.axis] = p.size;
    if (!only_input_symbols(*n->graph(), shape)) return nullptr;
    attrs = {{"shape", shape}};
    inputs[0] = slice(inputs[0], p, p.axis, before);
  } else if (n->is("attention")) {
    // Queries are independent of each other unless their position says what they see.
    const std::string layout = attrs.get_string("q_layout", "BHSD");
    const int64_t out_rows = attrs.get_string("out_layout", layout) == "BSHD" ? 1 : 2, q_rows = layout == "BSHD" ? 1 : 2;
    if (p.axis != out_rows || attrs.get_bool("is_causal", false)) return nullptr;
    if (inputs.size() > 3 && inputs[3] != nullptr) {
      const int64_t mask_rank = rank_of(inputs[3]);
      if (mask_rank < 0 || (mask_rank > 1 && !inputs[3]->type.dims[mask_rank - 2].is(1))) return nullptr;
    }
    inputs[0] = slice(inputs[0], p, q_rows, before);
  } else {
    return nullptr;
  }
  Value* y = n->graph()->build(n->op().name, inputs, attrs, before, n->name);
  y->producer()->origin = merged_origin({n});
  return y;
}

bool hoist(Node* n) {
  const auto part = part_of(n);
  if (!part) return false;
  Node* source = n->input(0)->producer();
  if (source == nullptr || source->graph() != n->graph() || sole_user(n->input(0)) != n || !n->subgraphs.empty()) return false;
  Value* y = narrowed(source, *part, n);
  if (y == nullptr) return false;
  if (n->is("gather")) {  // which drops the axis
    if (!only_input_symbols(*n->graph(), n->output(0)->type.dims)) return false;
    y = n->graph()->build("reshape", {y}, {{"shape", n->output(0)->type.dims}}, n);
  }
  replace(n->output(0), y);
  return true;
}

}  // namespace

int hoist_slices(Graph& graph, PassContext& context) { return rewrite_until_settled(graph, context, hoist); }

}  // namespace tokamak::passes
