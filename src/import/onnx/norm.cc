// Softmax and normalisations.

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Dim;
using ir::Dims;
using ir::Ints;
using ir::Value;

// Rows of the tensor seen as a matrix, split before `axis`; nullopt dims that do not bind are computed in the graph.
Value* flatten_to_matrix(NodeImporter& n, Value* x, int64_t axis) {
  Dim rows = 1, columns = 1;
  for (int64_t i = 0; i < x->type.rank(); ++i) (i < axis ? rows : columns) = (i < axis ? rows : columns) * x->type.dims[i];
  if (n.is_bindable(rows) && n.is_bindable(columns)) return n.reshape(x, Dims{rows, columns});
  Value* leading = n.reduce("reduce_prod", n.shape_of(x, 0, axis), {0});
  Value* trailing = n.reduce("reduce_prod", n.shape_of(x, axis), {0});
  return n.reshape(x, n.concat({leading, trailing}, 0));
}

// Since opset 13 along one axis (default the last); before, over everything from the axis (default 1) on.
void softmax_like(NodeImporter& n, Text op) {
  Value* x = n.input(0);
  if (n.opset() >= 13) {
    n.set_output(0, n.add(op, {x}, {{"axis", n.axis(n.int_attr("axis", -1), x)}}));
    return;
  }
  const int64_t rank = n.rank(x);
  int64_t axis = n.int_attr("axis", 1);
  if (axis < -rank || axis > rank) n.bad("axis {} is outside a tensor of {} dimensions", axis, rank);
  if (axis < 0) axis += rank;
  if (axis == rank - 1) {
    n.set_output(0, n.add(op, {x}, {{"axis", axis}}));
    return;
  }
  n.set_output(0, n.reshape_like(n.add(op, {flatten_to_matrix(n, x, axis)}, {{"axis", int64_t{1}}}), x));
}

void softmax(NodeImporter& n) { softmax_like(n, "softmax"); }
void log_softmax(NodeImporter& n) { softmax_like(n, "log_softmax"); }

// One at the (first) largest element along the axis, zero elsewhere. Before opset 13 over the flattened rest, as Softmax.
void hardmax(NodeImporter& n) {
  Value* x = n.input(0);
  const int64_t rank = n.rank(x);
  int64_t axis = n.opset() >= 13 ? n.axis(n.int_attr("axis", -1), x) : n.axis(n.int_attr("axis", 1), x);
  Value* from = x;
  if (n.opset() < 13 && axis != rank - 1) {
    from = flatten_to_matrix(n, x, axis);
    axis = 1;
  }
  Value* best = n.add("argmax", {from}, {{"axis", axis}, {"keepdims", int64_t{0}}, {"select_last", int64_t{0}}});
  Value* values = n.constant_value(scalar_tensor(0, DType::F32, {2}));
  values->constant.data<float>()[1] = 1;
  Value* depth = n.squeeze(n.dim_of(from, axis), {0});
  Value* hot = n.cast(n.add("onehot", {best, depth, n.cast(values, x->type.dtype)}, {{"axis", axis}}), x->type.dtype);
  n.set_output(0, from == x ? hot : n.reshape_like(hot, x));
}

void layer_normalization(NodeImporter& n) {
  Value* x = n.input(0);
  Values inputs{x, n.maybe(1), n.maybe(2)};
  while (inputs.back() == nullptr) inputs.pop_back();
  const int num_outputs = n.wants(2) ? 3 : n.wants(1) ? 2 : 1;
  ir::Node* made = n.add_node("layer_norm", inputs,
                              {{"axis", n.axis(n.int_attr("axis", -1), x)}, {"epsilon", n.float_attr("epsilon", 1e-5)}}, num_outputs);
  n.set_outputs({made->outputs().begin(), made->outputs().end()});
}

void rms_normalization(NodeImporter& n) {
  Value* x = n.input(0);
  Values inputs{x};
  if (n.has_input(1)) inputs.push_back(n.input(1));
  n.set_output(0, n.add("rms_norm", inputs, {{"axis", n.axis(n.int_attr("axis", -1), x)}, {"epsilon", n.float_attr("epsilon", 1e-5)}}));
  if (n.wants(1)) n.unsupported("its second output (inverse deviations) is used", "export the model for inference");
}

// com.microsoft: y = norm(input + skip + bias), outputs y, mean, inv_std, sum.
void skip_normalization(NodeImporter& n, Text op, int bias_input, bool has_beta) {
  Value* x = n.input(0);
  if (n.has_input(bias_input)) x = n.add("add", {x, n.input(bias_input)});
  if (n.wants(1) || n.wants(2)) n.unsupported("its mean and deviation outputs are used", "export the model for inference");
  Values inputs{x, n.input(1), n.input(2)};
  if (has_beta && n.has_input(3)) inputs.push_back(n.input(3));
  const int64_t axis = n.axis(-1, x);
  ir::Node* made = n.add_node(op, inputs, {{"axis", axis}, {"epsilon", n.float_attr("epsilon", 1e-12)}}, n.wants(3) ? 2 : 1);
  n.set_output(0, made->output(0));
  if (n.wants(3)) n.set_output(3, made->output(1));
}

void skip_layer_normalization(NodeImporter& n) { skip_normalization(n, "add_layer_norm", 4, true); }
void skip_simplified_layer_normalization(NodeImporter& n) { skip_normalization(n, "add_rms_norm", 3, false); }

// [C] → [C, 1, ...] against a tensor of `rank` dimensions with channels second.
Value* per_channel(NodeImporter& n, Value* v, int64_t rank) { return n.unsqueeze(v, n.iota(1, rank - 1)); }

// Training form: statistics of this batch, and the running ones as outputs.
void batch_norm_training(NodeImporter& n) {
  Value* x = n.input(0);
  const int64_t rank = n.rank(x);
  Ints axes = n.iota(0, rank);
  axes.erase(axes.begin() + 1);
  Value* mean = n.reduce("reduce_mean", x, axes, false);
  Value* centred = n.add("sub", {x, per_channel(n, mean, rank)});
  Value* variance = n.reduce("reduce_mean", n.add("mul", {centred, centred}), axes, false);
  n.set_output(0, n.add("batch_norm", {x, n.input(1), n.input(2), mean, variance}, {{"epsilon", n.float_attr("epsilon", 1e-5)}}));
  const double momentum = n.float_attr("momentum", 0.9);
  const auto running = [&](Value* old, Value* now) {
    now = n.cast(now, old->type.dtype);
    return n.add("add", {n.add("mul", {old, n.scalar_like(momentum, old)}), n.add("mul", {now, n.scalar_like(1 - momentum, old)})});
  };
  if (n.wants(1)) n.set_output(1, running(n.input(3), mean));
  if (n.wants(2)) n.set_output(2, running(n.input(4), variance));
}

void batch_normalization(NodeImporter& n) {
  if (n.opset() >= 14 && n.int_attr("training_mode", 0) != 0) return batch_norm_training(n);
  if (n.opset() < 7 && n.int_attr("is_test", 0) == 0 && (n.wants(1) || n.wants(2)))
    n.unsupported("it is in training mode", "export the model in evaluation mode");
  if (n.opset() < 9 && n.int_attr("spatial", 1) == 0) n.unsupported("attribute 'spatial' is 0", "convert the model to opset 9 or newer");
  if (n.opset() < 14 && n.opset() >= 7 && (n.wants(1) || n.wants(2)))
    n.unsupported("it is in training mode", "export the model in evaluation mode");
  n.set_output(
      0, n.add("batch_norm", {n.input(0), n.input(1), n.input(2), n.input(3), n.input(4)}, {{"epsilon", n.float_attr("epsilon", 1e-5)}}));
}

void instance_normalization(NodeImporter& n) {
  n.set_output(0, n.add("instance_norm", {n.input(0), n.input(1), n.input(2)}, {{"epsilon", n.float_attr("epsilon", 1e-5)}}));
}

void group_normalization(NodeImporter& n) {
  Value* x = n.input(0);
  Value* scale = n.input(1);
  Value* bias = n.input(2);
  const int64_t groups = n.int_attr("num_groups");
  if (groups <= 0) n.bad("attribute 'num_groups' is {}", groups);
  if (n.opset() < 21) {  // one scale a group: repeat it for the group's channels
    if (n.rank(x) < 2 || !x->type.dims[1].is_const()) n.unsupported("the number of channels is not known", "fix the channel dimension");
    const int64_t channels = x->type.dims[1].value();
    const auto repeat = [&](Value* v) {
      Value* wide = n.add("expand", {n.unsqueeze(v, {1})}, {{"shape", Dims{groups, channels / groups}}});
      return n.reshape(wide, Dims{channels});
    };
    scale = repeat(scale);
    bias = repeat(bias);
  }
  n.set_output(0, n.add("group_norm", {x, scale, bias}, {{"num_groups", groups}, {"epsilon", n.float_attr("epsilon", 1e-5)}}));
}

void lrn(NodeImporter& n) {
  n.set_output(0, n.add("lrn", {n.input(0)},
                        {{"size", n.int_attr("size")},
                         {"alpha", n.float_attr("alpha", 1e-4)},
                         {"beta", n.float_attr("beta", 0.75)},
                         {"bias", n.float_attr("bias", 1.0)}}));
}

// By its function body: (x - mean) / (sqrt(mean(x^2) - mean^2) + 1e-9).
void mean_variance_normalization(NodeImporter& n) {
  Value* x = n.input(0);
  const Ints axes = n.axes(n.ints_attr("axes", {0, 2, 3}), n.rank(x));
  Value* mean = n.reduce("reduce_mean", x, axes);
  Value* mean_of_squares = n.reduce("reduce_mean", n.add("mul", {x, x}), axes);
  Value* deviation = n.add("sqrt", {n.add("sub", {mean_of_squares, n.add("mul", {mean, mean})})});
  n.set_output(0, n.add("div", {n.add("sub", {x, mean}), n.add("add", {deviation, n.scalar_like(1e-9, x)})}));
}

// A row of zeros stays zeros.
void lp_normalization(NodeImporter& n) {
  Value* x = n.input(0);
  const int64_t p = n.int_attr("p", 2);
  if (p != 1 && p != 2) n.bad("attribute 'p' is {}, expected 1 or 2", p);
  const int64_t axis = n.axis(n.int_attr("axis", -1), x);
  Value* norm =
      p == 1 ? n.reduce("reduce_sum", n.add("abs", {x}), {axis}) : n.add("sqrt", {n.reduce("reduce_sum", n.add("mul", {x, x}), {axis})});
  Value* is_zero = n.add("equal", {norm, n.scalar_like(0, x)});
  n.set_output(0, n.add("div", {x, n.add("where", {is_zero, n.scalar_like(1, x), norm})}));
}

constexpr int kAny = 1 << 20;
constexpr OpImporter kImporters[] = {
    {"Softmax", softmax},
    {"LogSoftmax", log_softmax},
    {"Hardmax", hardmax},
    {"LayerNormalization", layer_normalization},
    {"RMSNormalization", rms_normalization},
    {"BatchNormalization", batch_normalization},
    {"InstanceNormalization", instance_normalization},
    {"GroupNormalization", group_normalization},
    {"LRN", lrn},
    {"MeanVarianceNormalization", mean_variance_normalization},
    {"LpNormalization", lp_normalization},
    {"SimplifiedLayerNormalization", rms_normalization},
    {"SimplifiedLayerNormalization", rms_normalization, 1, kAny, "com.microsoft"},
    {"LayerNormalization", layer_normalization, 1, kAny, "com.microsoft"},
    {"SkipLayerNormalization", skip_layer_normalization, 1, kAny, "com.microsoft"},
    {"SkipSimplifiedLayerNormalization", skip_simplified_layer_normalization, 1, kAny, "com.microsoft"},
};

}  // namespace

std::span<const OpImporter> norm_importers() { return kImporters; }

}  // namespace tokamak::onnx
