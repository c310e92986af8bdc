// if, loop, scan. Types of subgraph outputs are inferred before the node's own.

#include "ir/ops/helpers.h"

namespace tokamak::ir::ops {
namespace {

const Graph& subgraph(const InferContext& ctx, size_t i, size_t expected) {
  const auto& graphs = ctx.node().subgraphs;
  if (graphs.size() != expected || !graphs[i]) ctx.fail("expected {} subgraphs, found {}", expected, graphs.size());
  return *graphs[i];
}

TensorType output_type(const InferContext& ctx, const Graph& graph, size_t i) {
  if (i >= graph.outputs().size() || !graph.outputs()[i]) ctx.fail("subgraph \"{}\" has no output {}", graph.name, i);
  return ctx.bind(graph.outputs()[i]->type);
}

// A value that has one of two types: equal dimensions stay, others are unknown.
TensorType merge(InferContext& ctx, const TensorType& a, const TensorType& b, std::string_view what, size_t i) {
  if (a.dtype != b.dtype) ctx.fail("{} {} has two types: {} and {}", what, i, to_string(a), to_string(b));
  if (!a.ranked || !b.ranked || a.rank() != b.rank()) return TensorType::unranked(a.dtype);
  TensorType merged = a;
  for (int64_t d = 0; d < a.rank(); ++d)
    if (!(a.dims[d] == b.dims[d])) merged.dims[d] = ctx.fresh_symbol();
  return merged;
}

void infer_if(InferContext& ctx) {
  if (ctx.dtype(0) != DType::Bool) ctx.fail("the condition must be bool, found {}", to_string(ctx.dtype(0)));
  const Graph &then_graph = subgraph(ctx, 0, 2), &else_graph = subgraph(ctx, 1, 2);
  for (int i = 0; i < ctx.num_outputs(); ++i)
    ctx.set_type(i, merge(ctx, output_type(ctx, then_graph, i), output_type(ctx, else_graph, i), "output", i));
}

// Whether the body's condition output is surely true: a true constant, or the condition it was given.
bool always_true(const Graph& body) {
  const Value* condition = body.outputs()[0];
  for (int hops = 0; hops < 8 && condition->producer() && condition->producer()->is("identity"); ++hops)
    condition = condition->producer()->input(0);
  if (condition->is_constant())
    return condition->constant.dtype() == DType::Bool && condition->constant.count() == 1 && condition->constant.int_at(0) != 0;
  return body.inputs().size() > 1 && condition == body.inputs()[1];
}

void infer_loop(InferContext& ctx) {
  if (ctx.num_inputs() < 2) ctx.fail("expected a trip count and a condition (either may be absent), found {} inputs", ctx.num_inputs());
  const Graph& body = subgraph(ctx, 0, 1);
  const size_t carried = static_cast<size_t>(ctx.num_inputs() - 2), outputs = static_cast<size_t>(ctx.num_outputs());
  if (body.inputs().size() != carried + 2) ctx.fail("the body takes {} inputs, expected {}", body.inputs().size(), carried + 2);
  if (outputs < carried || body.outputs().size() != outputs + 1)
    ctx.fail("the body gives {} outputs, expected {}", body.outputs().size(), outputs + 1);
  for (size_t i = 0; i < carried; ++i) {
    if (!ctx.has_input(static_cast<int>(i) + 2)) ctx.fail("carried value {} is absent", i);
    ctx.set_type(static_cast<int>(i), merge(ctx, ctx.type(static_cast<int>(i) + 2), output_type(ctx, body, i + 1), "carried value", i));
  }
  std::optional<Dim> trips;
  const auto condition = scalar_int(ctx, 1);
  if (ctx.has_input(0) && (!ctx.has_input(1) || (condition && condition->is(1))) && body.outputs()[0] && always_true(body))
    trips = scalar_int(ctx, 0);
  if (trips) trips = Dim::max(*trips, 0);
  for (size_t i = carried; i < outputs; ++i) {
    TensorType t = output_type(ctx, body, i + 1);
    if (t.ranked) t.dims.insert(t.dims.begin(), trips ? *trips : ctx.fresh_symbol());
    ctx.set_type(static_cast<int>(i), std::move(t));
  }
}

void infer_scan(InferContext& ctx) {
  const Graph& body = subgraph(ctx, 0, 1);
  const int64_t scanned = ctx.attrs().get_int("num_scan_inputs"), inputs = ctx.num_inputs();
  if (scanned < 1 || scanned > inputs) ctx.fail("num_scan_inputs is {} of {} inputs", scanned, inputs);
  const int64_t states = inputs - scanned, outputs = ctx.num_outputs();
  if (static_cast<int64_t>(body.inputs().size()) != inputs) ctx.fail("the body takes {} inputs, expected {}", body.inputs().size(), inputs);
  if (outputs < states || static_cast<int64_t>(body.outputs().size()) != outputs)
    ctx.fail("the body gives {} outputs, expected {}", body.outputs().size(), outputs);
  const Ints in_axes = ctx.attrs().get_ints("scan_input_axes", {}), out_axes = ctx.attrs().get_ints("scan_output_axes", {});
  if (!in_axes.empty() && static_cast<int64_t>(in_axes.size()) != scanned)
    ctx.fail("{} scan_input_axes for {} scan inputs", in_axes.size(), scanned);
  if (!out_axes.empty() && static_cast<int64_t>(out_axes.size()) != outputs - states)
    ctx.fail("{} scan_output_axes for {} scan outputs", out_axes.size(), outputs - states);
  std::optional<Dim> trips;
  for (int64_t i = 0; i < scanned; ++i) {
    const int input = static_cast<int>(states + i);
    if (!ctx.has_input(input)) ctx.fail("scan input {} is absent", i);
    if (!ctx.ranked(input)) continue;
    const Dim& length = ctx.dim(input, ctx.axis(in_axes.empty() ? 0 : in_axes[i], ctx.rank(input)));
    if (trips) require_equal(ctx, *trips, length, "the length of scan inputs");
    trips = trips ? agreed(*trips, length) : length;
  }
  for (int64_t i = 0; i < outputs; ++i) {
    TensorType t = output_type(ctx, body, static_cast<size_t>(i));
    if (i < states) {
      if (ctx.has_input(static_cast<int>(i))) t = merge(ctx, ctx.type(static_cast<int>(i)), t, "state", static_cast<size_t>(i));
    } else if (t.ranked) {
      const int64_t axis = ctx.axis(out_axes.empty() ? 0 : out_axes[i - states], t.rank() + 1);
      t.dims.insert(t.dims.begin() + axis, trips ? *trips : ctx.fresh_symbol());
    }
    ctx.set_type(static_cast<int>(i), std::move(t));
  }
}

}  // namespace

std::span<const OpDef> control_flow() {
  constexpr AttrKind I = AttrKind::Int, Is = AttrKind::Ints;
  static const std::vector<OpDef> table = {
      {.name = "if",
       .doc = "(cond) then, else: the outputs of one subgraph",
       .min_outputs = 0,
       .max_outputs = -1,
       .traits = kControlFlow,
       .infer = infer_if},
      {.name = "loop",
       .doc = "(trip_count?, cond?, carried...) body: ONNX's Loop; outputs final carried values, then stacked scan outputs",
       .min_inputs = 0,
       .max_inputs = -1,
       .min_outputs = 0,
       .max_outputs = -1,
       .traits = kControlFlow,
       .infer = infer_loop},
      {.name = "scan",
       .doc = "(state..., x...){num_scan_inputs, scan_input_axes, scan_output_axes, scan_input_directions, scan_output_directions} body: "
              "ONNX's Scan",
       .min_inputs = 1,
       .max_inputs = -1,
       .min_outputs = 0,
       .max_outputs = -1,
       .traits = kControlFlow,
       .attrs = {{"num_scan_inputs", I, true},
                 {"scan_input_axes", Is},
                 {"scan_output_axes", Is},
                 {"scan_input_directions", Is},
                 {"scan_output_directions", Is}},
       .infer = infer_scan},
  };
  return table;
}

}  // namespace tokamak::ir::ops
