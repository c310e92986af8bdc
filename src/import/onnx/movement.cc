// Operators that move elements without computing.

#include <algorithm>
#include <cmath>
#include <optional>

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Attrs;
using ir::Dim;
using ir::Dims;
using ir::Ints;
using ir::Value;

Values trimmed(Values inputs) {
  while (!inputs.empty() && inputs.back() == nullptr) inputs.pop_back();
  return inputs;
}

void identity(NodeImporter& n) {
  if (n.is_sequence(0)) n.set_sequence(0, n.sequence(0));
  else n.set_output(0, n.input(0));
}

void reshape(NodeImporter& n) {
  if (n.opset() < 5) {
    n.set_output(0, n.reshape(n.input(0), n.i64(n.ints_attr("shape"))));
    return;
  }
  Attrs attrs;
  if (n.int_attr("allowzero", 0) != 0) attrs.set("allowzero", int64_t{1});
  n.set_output(0, n.add("reshape", {n.input(0), n.input(1)}, attrs));
}

void flatten(NodeImporter& n) {
  Value* x = n.input(0);
  int64_t axis = n.int_attr("axis", 1);
  if (x->type.ranked) {
    const int64_t rank = x->type.rank();
    if (axis < -rank || axis > rank) n.bad("axis {} is outside a tensor of {} dimensions", axis, rank);
    if (axis < 0) axis += rank;
    Dim rows = 1, columns = 1;
    for (int64_t i = 0; i < rank; ++i) (i < axis ? rows : columns) = (i < axis ? rows : columns) * x->type.dims[i];
    if (n.is_bindable(rows) && n.is_bindable(columns)) {
      n.set_output(0, n.reshape(x, Dims{rows, columns}));
      return;
    }
  }
  Value* rows = n.reduce("reduce_prod", n.shape_of(x, 0, axis), {0});
  Value* columns = n.reduce("reduce_prod", n.shape_of(x, axis), {0});
  n.set_output(0, n.reshape(x, n.concat({rows, columns}, 0)));
}

// Axes are an attribute before opset 13 and an input since; nullopt when the input is computed.
std::optional<Ints> squeeze_axes(NodeImporter& n) {
  if (n.opset() < 13) return n.ints_attr("axes");
  if (!n.has_input(1)) return Ints{};
  return n.const_ints(n.input(1));
}

// 1 at the axes that `axes` (computed, known length) does not name, 0 at those it does.
struct AxisMask {
  Value* axes;  // [k] i64, not negative
  Value* kept;  // [rank] i64
  int64_t count;
};

AxisMask axis_mask(NodeImporter& n, Value* axes, int64_t rank_without, int64_t sign) {
  if (n.rank(axes) != 1 || !axes->type.dims[0].is_const()) n.unsupported("the number of its axes is not known", "make the axes a constant");
  const int64_t k = axes->type.dims[0].value(), rank = rank_without + sign * k;
  if (rank < k || rank > 64) n.bad("{} axes do not fit", k);
  axes = n.cast(axes, DType::I64);
  axes = n.add("where", {n.add("less", {axes, n.i64_scalar(0)}), n.add("add", {axes, n.i64_scalar(rank)}), axes});
  Value* kept = n.add("scatter_elements", {n.i64(Ints(rank, 1)), axes, n.i64(Ints(k, 0))}, {{"axis", int64_t{0}}});
  return {axes, kept, k};
}

void squeeze(NodeImporter& n) {
  Value* x = n.input(0);
  if (const auto axes = squeeze_axes(n)) return n.set_output(0, n.squeeze(x, *axes));
  const AxisMask mask = axis_mask(n, n.input(1), n.rank(x), 0);
  Value* shape = n.add("compress", {n.shape_of(x), n.cast(mask.kept, DType::Bool)}, {{"axis", int64_t{0}}});
  n.set_output(0, n.reshape(x, n.reshape(shape, n.i64({n.rank(x) - mask.count}))));
}

void unsqueeze(NodeImporter& n) {
  Value* x = n.input(0);
  if (const auto axes = squeeze_axes(n)) return n.set_output(0, n.unsqueeze(x, *axes));
  const AxisMask mask = axis_mask(n, n.input(1), n.rank(x), 1);
  // The kept axes count up through x's shape; a leading 1 keeps the position in range before the first of them.
  Value* position = n.add("cumsum", {mask.kept, n.i64_scalar(0)}, {{"exclusive", int64_t{0}}, {"reverse", int64_t{0}}});
  Value* sizes = n.add("gather", {n.concat({n.i64({1}), n.shape_of(x)}, 0), position}, {{"axis", int64_t{0}}});
  Value* is_kept = n.cast(mask.kept, DType::Bool);
  n.set_output(0, n.reshape(x, n.add("where", {is_kept, sizes, n.i64_scalar(1)})));
}

void transpose(NodeImporter& n) {
  Value* x = n.input(0);
  Ints perm = n.ints_attr("perm");
  if (perm.empty() && !n.has_attr("perm")) {
    if (!x->type.ranked) {
      n.set_output(0, n.add("transpose", {x}));
      return;
    }
    perm = n.iota(0, x->type.rank());
    std::reverse(perm.begin(), perm.end());
  } else {
    const int64_t rank = static_cast<int64_t>(perm.size());
    if (x->type.ranked && x->type.rank() != rank) n.bad("attribute 'perm' has {} entries for {}", rank, to_string(x->type));
    (void)n.axes(perm, rank);  // each once
    for (int64_t& p : perm) p = p < 0 ? p + rank : p;
  }
  n.set_output(0, n.transpose(x, perm));
}

void expand(NodeImporter& n) { n.set_output(0, n.add("expand", {n.input(0), n.input(1)})); }

void concat(NodeImporter& n) {
  const Values inputs = n.inputs();
  if (inputs.empty()) n.bad("it has no inputs");
  const int64_t axis = n.opset() < 4 ? n.int_attr("axis", 1) : n.int_attr("axis");
  n.set_output(0, n.concat(inputs, n.axis(axis, inputs[0])));
}

void split(NodeImporter& n) {
  Value* x = n.input(0);
  Attrs attrs{{"axis", n.axis(n.int_attr("axis", 0), x)}};
  Values inputs{x};
  if (n.opset() < 13) {
    const Ints sizes = n.ints_attr("split");
    if (!sizes.empty()) attrs.set("sizes", Dims(sizes.begin(), sizes.end()));
    else if (n.has_input(1)) inputs.push_back(n.input(1));  // opset 1 had it as an input
  } else if (n.has_input(1)) {
    const auto sizes = n.ints(n.input(1));
    if (sizes && std::all_of(sizes->begin(), sizes->end(), [&](const Dim& d) { return n.is_bindable(d); })) attrs.set("sizes", *sizes);
    else inputs.push_back(n.input(1));
  }
  const int64_t parts = n.int_attr("num_outputs", n.num_outputs());
  if (parts != n.num_outputs()) n.bad("attribute 'num_outputs' is {}, the node has {} outputs", parts, n.num_outputs());
  ir::Node* made = n.add_node("split", inputs, attrs, n.num_outputs());
  n.set_outputs({made->outputs().begin(), made->outputs().end()});
}

void slice_attributes(NodeImporter& n) {
  Value* x = n.input(0);
  const Ints starts = n.ints_attr("starts"), ends = n.ints_attr("ends");
  Ints axes = n.ints_attr("axes");
  if (axes.empty()) axes = n.iota(0, static_cast<int64_t>(starts.size()));
  if (starts.size() != ends.size() || starts.size() != axes.size())
    n.bad("'starts', 'ends' and 'axes' have {}, {} and {} entries", starts.size(), ends.size(), axes.size());
  for (int64_t& a : axes) a = n.axis(a, x);
  n.set_output(0, n.add("slice", {x},
                        {{"starts", Dims(starts.begin(), starts.end())},
                         {"ends", Dims(ends.begin(), ends.end())},
                         {"axes", axes},
                         {"steps", Ints(axes.size(), 1)}}));
}

void slice(NodeImporter& n) { n.set_output(0, n.add("slice", trimmed({n.input(0), n.input(1), n.input(2), n.maybe(3), n.maybe(4)}))); }

void pad_attributes(NodeImporter& n) {
  Value* x = n.input(0);
  Ints pads = n.opset() < 2 ? n.ints_attr("paddings") : n.ints_attr("pads");
  if (pads.size() % 2 != 0) n.bad("attribute 'pads' has an odd number of entries");
  const Ints axes = n.iota(0, static_cast<int64_t>(pads.size()) / 2);
  n.set_output(0,
               n.add("pad", {x},
                     {{"pads", pads}, {"mode", n.string_attr("mode", "constant")}, {"value", n.float_attr("value", 0.0)}, {"axes", axes}}));
}

void pad(NodeImporter& n) {
  Value* x = n.input(0);
  Attrs attrs{{"mode", n.string_attr("mode", "constant")}};
  Values inputs{x, n.input(1), nullptr};
  const auto pads = n.const_ints(n.input(1));
  if (n.has_input(3)) {
    if (auto axes = n.const_ints(n.input(3))) {
      for (int64_t& a : *axes) a = n.axis(a, x);
      attrs.set("axes", *axes);
    } else {  // spread the pads over all axes
      const AxisMask mask = axis_mask(n, n.input(3), n.rank(x), 0);
      Value* zeros = n.i64(Ints(n.rank(x), 0));
      const auto spread = [&](int64_t begin) {
        Value* part = n.slice(n.cast(n.input(1), DType::I64), 0, begin, begin + mask.count);
        return n.add("scatter_elements", {zeros, mask.axes, part}, {{"axis", int64_t{0}}});
      };
      inputs[1] = n.concat({spread(0), spread(mask.count)}, 0);
      attrs.set("axes", n.iota(0, n.rank(x)));
    }
  } else if (pads) {
    attrs.set("axes", n.iota(0, static_cast<int64_t>(pads->size()) / 2));
  }
  if (pads && inputs[1] == n.input(1)) {
    if (pads->size() % 2 != 0) n.bad("it has an odd number of pads");
    attrs.set("pads", *pads);
    inputs[1] = nullptr;
  }
  if (n.has_input(2)) {
    const auto value = n.const_scalar(n.input(2));
    if (value && std::abs(*value) < 9e15) attrs.set("value", *value);  // exact as a double
    else inputs[2] = n.input(2);
  }
  n.set_output(0, n.add("pad", trimmed(inputs), attrs));
}

void gather(NodeImporter& n) {
  n.set_output(0, n.add("gather", {n.input(0), n.input(1)}, {{"axis", n.axis(n.int_attr("axis", 0), n.input(0))}}));
}

void gather_elements(NodeImporter& n) {
  n.set_output(0, n.add("gather_elements", {n.input(0), n.input(1)}, {{"axis", n.axis(n.int_attr("axis", 0), n.input(0))}}));
}

void gather_nd(NodeImporter& n) {
  n.set_output(0, n.add("gather_nd", {n.input(0), n.input(1)}, {{"batch_dims", n.int_attr("batch_dims", 0)}}));
}

void scatter_elements(NodeImporter& n) {
  n.set_output(0, n.add("scatter_elements", {n.input(0), n.input(1), n.input(2)},
                        {{"axis", n.axis(n.int_attr("axis", 0), n.input(0))}, {"reduction", n.string_attr("reduction", "none")}}));
}

void scatter_nd(NodeImporter& n) {
  n.set_output(0, n.add("scatter_nd", {n.input(0), n.input(1), n.input(2)}, {{"reduction", n.string_attr("reduction", "none")}}));
}

// Rows of a KV cache: past_cache with `update` written at write_indices[b] + 0, 1, ... along the axis.
void tensor_scatter(NodeImporter& n) {
  Value* cache = n.input(0);
  Value* update = n.input(1);
  const int64_t rank = n.rank(cache), axis = n.axis(n.int_attr("axis", -2), cache);
  if (axis == 0) n.bad("attribute 'axis' must not be the batch axis");
  const auto scalar_dim = [&](Value* v, int64_t a) { return n.squeeze(n.dim_of(v, a), {0}); };
  Value* index = n.add("range", {n.i64_scalar(0), scalar_dim(update, axis), n.i64_scalar(1)});
  index = n.unsqueeze(index, n.iota(1, rank - axis));
  if (n.has_input(2)) index = n.add("add", {index, n.unsqueeze(n.cast(n.input(2), DType::I64), n.iota(1, rank))});
  if (n.string_attr("mode", "linear") == "circular") index = n.add("mod", {index, n.dim_of(cache, axis)}, {{"fmod", int64_t{0}}});
  index = n.add("expand", {index, n.shape_of(update)});
  n.set_output(0, n.add("scatter_elements", {cache, index, update}, {{"axis", axis}, {"reduction", std::string("none")}}));
}

void tile(NodeImporter& n) {
  if (n.opset() < 6) n.unsupported("Tile of opset 1 is not supported", "convert the model to opset 6 or newer");
  n.set_output(0, n.add("tile", {n.input(0), n.input(1)}));
}

void depth_to_space(NodeImporter& n) {
  n.set_output(0, n.add("depth_to_space", {n.input(0)}, {{"blocksize", n.int_attr("blocksize")}, {"mode", n.string_attr("mode", "DCR")}}));
}

void space_to_depth(NodeImporter& n) { n.set_output(0, n.add("space_to_depth", {n.input(0)}, {{"blocksize", n.int_attr("blocksize")}})); }

void trilu(NodeImporter& n) { n.set_output(0, n.add("trilu", trimmed({n.input(0), n.maybe(1)}), {{"upper", n.int_attr("upper", 1)}})); }

void reverse_sequence(NodeImporter& n) {
  n.set_output(0, n.add("reverse_sequence", {n.input(0), n.input(1)},
                        {{"batch_axis", n.int_attr("batch_axis", 1)}, {"time_axis", n.int_attr("time_axis", 0)}}));
}

// Crops or pads each axis around its centre; the odd element goes to the end.
void center_crop_pad(NodeImporter& n) {
  Value* x = n.input(0);
  const int64_t rank = n.rank(x);
  Ints axes = n.ints_attr("axes", n.iota(0, rank));
  for (int64_t& a : axes) a = n.axis(a, x);
  Value* target = n.cast(n.input(1), DType::I64);
  Value* have = n.add("gather", {n.shape_of(x), n.i64(axes)}, {{"axis", int64_t{0}}});
  Value* zero = n.i64_scalar(0);
  Value* two = n.i64_scalar(2);
  const auto excess = [&](Value* a, Value* b) { return n.add("max", {n.add("sub", {a, b}), zero}); };
  Value* start = n.add("div", {excess(have, target), two});
  Value* end = n.add("add", {start, n.add("min", {have, target})});
  Value* cropped = n.add("slice", {x, start, end, n.i64(axes)});
  Value* missing = excess(target, have);
  Value* before = n.add("div", {missing, two});
  Value* pads = n.concat({before, n.add("sub", {missing, before})}, 0);
  n.set_output(0, n.add("pad", {cropped, pads}, {{"mode", std::string("constant")}, {"axes", axes}}));
}

constexpr OpImporter kImporters[] = {
    {"Identity", identity},
    {"Reshape", reshape},
    {"Flatten", flatten},
    {"Squeeze", squeeze},
    {"Unsqueeze", unsqueeze},
    {"Transpose", transpose},
    {"Expand", expand},
    {"Concat", concat},
    {"Split", split},
    {"Slice", slice_attributes, 1, 9},
    {"Slice", slice, 10},
    {"Pad", pad_attributes, 1, 10},
    {"Pad", pad, 11},
    {"Gather", gather},
    {"GatherElements", gather_elements},
    {"GatherND", gather_nd},
    {"Scatter", scatter_elements},
    {"ScatterElements", scatter_elements},
    {"ScatterND", scatter_nd},
    {"TensorScatter", tensor_scatter},
    {"Tile", tile},
    {"DepthToSpace", depth_to_space},
    {"SpaceToDepth", space_to_depth},
    {"Trilu", trilu},
    {"ReverseSequence", reverse_sequence},
    {"CenterCropPad", center_crop_pad},
};

}  // namespace

std::span<const OpImporter> movement_importers() { return kImporters; }

}  // namespace tokamak::onnx
