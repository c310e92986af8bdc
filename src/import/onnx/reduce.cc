// Reductions along axes, argmax and argmin, running sums.

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Ints;
using ir::Value;

// What a Reduce* node reduces. `axes` empty and no `axes_value`: nothing (the node is an identity, or its pointwise part).
struct Reduction {
  Ints axes;
  Value* axes_value = nullptr;
  bool keepdims = true;
  bool is_noop = false;
  bool all = false;  // of a tensor of unknown rank
};

Reduction reduction(NodeImporter& n, int axes_input_since) {
  Reduction r;
  r.keepdims = n.int_attr("keepdims", 1) != 0;
  Value* x = n.input(0);
  Ints axes;
  if (n.opset() < axes_input_since) {
    axes = n.ints_attr("axes");
  } else if (n.has_input(1) && !n.is_empty_tensor(n.input(1))) {
    const auto known = n.const_ints(n.input(1));
    if (!known) {
      r.axes_value = n.input(1);
      return r;
    }
    axes = *known;
  }
  if (axes.empty() && n.opset() >= axes_input_since && n.int_attr("noop_with_empty_axes", 0) != 0) {
    r.is_noop = true;
    return r;
  }
  if (!axes.empty()) {
    r.axes = x->type.ranked ? n.axes(axes, x->type.rank()) : axes;
    return r;
  }
  if (x->type.ranked) r.axes = n.iota(0, x->type.rank());
  else r.all = true;
  r.is_noop = x->type.ranked && r.axes.empty();  // a scalar
  return r;
}

Value* reduce(NodeImporter& n, Text op, Value* x, const Reduction& r, bool keepdims) {
  if (r.is_noop) return x;
  if (r.all) return n.add(op, {x}, {{"keepdims", int64_t{keepdims}}});
  if (r.axes_value) return n.add(op, {x, r.axes_value}, {{"keepdims", int64_t{keepdims}}});
  return n.reduce(op, x, r.axes, keepdims);
}

Value* reduce(NodeImporter& n, Text op, Value* x, const Reduction& r) { return reduce(n, op, x, r, r.keepdims); }

constexpr int kAxesInput = 18;

void reduce_sum(NodeImporter& n) { n.set_output(0, reduce(n, "reduce_sum", n.input(0), reduction(n, 13))); }
void reduce_mean(NodeImporter& n) { n.set_output(0, reduce(n, "reduce_mean", n.input(0), reduction(n, kAxesInput))); }
void reduce_prod(NodeImporter& n) { n.set_output(0, reduce(n, "reduce_prod", n.input(0), reduction(n, kAxesInput))); }

void reduce_extreme(NodeImporter& n, Text op) {
  const Reduction r = reduction(n, kAxesInput);
  Value* x = n.input(0);
  const bool is_bool = x->type.dtype == DType::Bool;  // false < true
  Value* y = reduce(n, op, is_bool ? n.cast(x, DType::U8) : x, r);
  n.set_output(0, is_bool ? n.cast(y, DType::Bool) : y);
}

void reduce_max(NodeImporter& n) { reduce_extreme(n, "reduce_max"); }
void reduce_min(NodeImporter& n) { reduce_extreme(n, "reduce_min"); }

void reduce_l1(NodeImporter& n) {
  const Reduction r = reduction(n, kAxesInput);
  n.set_output(0, reduce(n, "reduce_sum", n.add("abs", {n.input(0)}), r));
}

Value* square(NodeImporter& n, Value* x) { return n.add("mul", {x, x}); }

// Integers have no square root: through f64 and back.
void reduce_l2(NodeImporter& n) {
  const Reduction r = reduction(n, kAxesInput);
  Value* x = n.input(0);
  const DType dtype = x->type.dtype;
  if (is_integer(dtype)) x = n.cast(x, DType::F64);
  n.set_output(0, n.cast(n.add("sqrt", {reduce(n, "reduce_sum", square(n, x), r)}), dtype));
}

void reduce_sum_square(NodeImporter& n) {
  const Reduction r = reduction(n, kAxesInput);
  n.set_output(0, reduce(n, "reduce_sum", square(n, n.input(0)), r));
}

void reduce_log_sum(NodeImporter& n) {
  const Reduction r = reduction(n, kAxesInput);
  Value* x = n.input(0);
  const DType dtype = x->type.dtype;
  if (is_integer(dtype)) x = n.cast(x, DType::F64);
  n.set_output(0, n.cast(n.add("log", {reduce(n, "reduce_sum", x, r)}), dtype));
}

// log(sum(exp(x - m))) + m with m the largest element, so that exp does not overflow; an infinite m (an empty or infinite row) is taken as
// 0.
void reduce_log_sum_exp(NodeImporter& n) {
  const Reduction r = reduction(n, kAxesInput);
  Value* x = n.input(0);
  const DType dtype = x->type.dtype;
  if (is_integer(dtype)) x = n.cast(x, DType::F64);
  Value* largest = reduce(n, "reduce_max", x, r, true);
  largest = n.add("where", {n.add("isinf", {largest}), n.scalar_like(0, x), largest});
  Value* sum = n.add("log", {reduce(n, "reduce_sum", n.add("exp", {n.add("sub", {x, largest})}), r)});
  if (!r.keepdims && !r.is_noop) largest = n.reshape_like(largest, sum);
  n.set_output(0, n.cast(n.add("add", {sum, largest}), dtype));
}

void arg_extreme(NodeImporter& n, Text op) {
  Value* x = n.input(0);
  n.set_output(0, n.add(op, {x},
                        {{"axis", n.axis(n.int_attr("axis", 0), x)},
                         {"keepdims", n.int_attr("keepdims", 1)},
                         {"select_last", n.int_attr("select_last_index", 0)}}));
}

void argmax(NodeImporter& n) { arg_extreme(n, "argmax"); }
void argmin(NodeImporter& n) { arg_extreme(n, "argmin"); }

void running(NodeImporter& n, Text op) {
  n.set_output(0, n.add(op, {n.input(0), n.input(1)}, {{"exclusive", n.int_attr("exclusive", 0)}, {"reverse", n.int_attr("reverse", 0)}}));
}

void cumsum(NodeImporter& n) { running(n, "cumsum"); }
void cumprod(NodeImporter& n) { running(n, "cumprod"); }

// All spatial axes, kept.
void global_pool(NodeImporter& n, Text op) {
  Value* x = n.input(0);
  const int64_t rank = n.rank(x);
  if (rank < 3) n.bad("the input should have three dimensions or more, found {}", to_string(x->type));
  n.set_output(0, n.reduce(op, x, n.iota(2, rank)));
}

void global_average_pool(NodeImporter& n) { global_pool(n, "reduce_mean"); }
void global_max_pool(NodeImporter& n) { global_pool(n, "reduce_max"); }

void global_lp_pool(NodeImporter& n) {
  Value* x = n.input(0);
  const double p = static_cast<double>(n.int_attr("p", 2));
  Value* power = n.add("pow", {n.add("abs", {x}), n.scalar_like(p, x)});
  n.set_output(0, n.add("pow", {n.reduce("reduce_sum", power, n.iota(2, n.rank(x))), n.scalar_like(1 / p, x)}));
}

constexpr OpImporter kImporters[] = {
    {"ReduceSum", reduce_sum},
    {"ReduceMean", reduce_mean},
    {"ReduceProd", reduce_prod},
    {"ReduceMax", reduce_max},
    {"ReduceMin", reduce_min},
    {"ReduceL1", reduce_l1},
    {"ReduceL2", reduce_l2},
    {"ReduceSumSquare", reduce_sum_square},
    {"ReduceLogSum", reduce_log_sum},
    {"ReduceLogSumExp", reduce_log_sum_exp},
    {"ArgMax", argmax},
    {"ArgMin", argmin},
    {"CumSum", cumsum},
    {"CumProd", cumprod},
    {"GlobalAveragePool", global_average_pool},
    {"GlobalMaxPool", global_max_pool},
    {"GlobalLpPool", global_lp_pool},
};

}  // namespace

std::span<const OpImporter> reduce_importers() { return kImporters; }

}  // namespace tokamak::onnx
