// Ops that move elements without computing: transpose, expand, tile, slice, pad, trilu, reverse_sequence and the block
// rearrangements. Floor: every moved byte read once and written once.

#include <algorithm>
#include <functional>

#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cuda/kernels/elementwise.h"
#include "backends/cuda/kernels/indexed_def.h"
#include "backends/cuda/kernels/strided_move.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

using cpu::ref::dims_attr;
using cpu::ref::normalize_axis;

Support supports_first(const NodeView& node) { return supports_moving(node); }
Support needs_constant(const NodeView& node, int input, const char* what) {
  if (node.has_input(input) && node.constants[input] == nullptr) return Support::no(fmt::format("{} must be constant", what));
  return Support::yes();
}

// An op that is a StridedMove.
class MoveDef final : public CudaKernelDef {
 public:
  using Supports = std::function<Support(const NodeView&)>;
  using Describe = std::function<StridedMove(const NodeView&)>;
  MoveDef(std::string op, Supports supports, Describe describe)
      : name_("cuda." + op), op_(std::move(op)), supports_(std::move(supports)), describe_(std::move(describe)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    if (const Support support = supports_moving(node); !support) return support;
    return supports_(node);
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    StridedMove move = describe_(node);
    move.bytes = bytes_of_element(node.input_dtypes[0]);
    return make_strided_move(node, move, name_);
  }

 private:
  std::string name_, op_;
  Supports supports_;
  Describe describe_;
};

Support always(const NodeView&) { return Support::yes(); }

StridedMove transpose(const NodeView& node) {
  const std::vector<int64_t> strides = strides_of(node.input_shapes[0]);
  std::vector<int64_t> perm = node.attrs().get_ints("perm", {});
  if (perm.empty())
    for (size_t i = strides.size(); i-- > 0;) perm.push_back(static_cast<int64_t>(i));
  StridedMove move{.shape = node.output_shapes[0], .strides = {}};
  for (int64_t axis : perm) move.strides.push_back(strides[normalize_axis(axis, static_cast<int64_t>(strides.size()))]);
  return move;
}

StridedMove tile(const NodeView& node) {
  const Shape &in = node.input_shapes[0], &out = node.output_shapes[0];
  const std::vector<int64_t> strides = strides_of(in);
  StridedMove move;
  for (size_t d = 0; d < in.size(); ++d) {
    move.shape.insert(move.shape.end(), {in[d] == 0 ? 0 : out[d] / in[d], in[d]});
    move.strides.insert(move.strides.end(), {0, strides[d]});
  }
  return move;
}

StridedMove rearrange(const Shape& split, const std::vector<int64_t>& perm) {
  const std::vector<int64_t> strides = strides_of(split);
  StridedMove move;
  for (int64_t axis : perm) move.shape.push_back(split[axis]), move.strides.push_back(strides[axis]);
  return move;
}
StridedMove depth_to_space(const NodeView& node) {
  const Shape& in = node.input_shapes[0];
  const int64_t b = node.attrs().get_int("blocksize"), c = in[1] / (b * b);
  if (node.attrs().get_string("mode", "DCR") == "DCR") return rearrange({in[0], b, b, c, in[2], in[3]}, {0, 3, 4, 1, 5, 2});
  return rearrange({in[0], c, b, b, in[2], in[3]}, {0, 1, 4, 2, 5, 3});
}
StridedMove space_to_depth(const NodeView& node) {
  const Shape& in = node.input_shapes[0];
  const int64_t b = node.attrs().get_int("blocksize");
  return rearrange({in[0], in[1], in[2] / b, b, in[3] / b, b}, {0, 3, 5, 1, 2, 4});
}

Support supports_slice(const NodeView& node) {
  for (int i : {1, 3, 4})
    if (i < node.num_inputs())
      if (const Support support = needs_constant(node, i, "starts, axes and steps"); !support) return support;
  return Support::yes();
}
StridedMove slice(const NodeView& node) {
  const Shape& in = node.input_shapes[0];
  const int64_t rank = static_cast<int64_t>(in.size());
  const auto list = [&](int input, std::vector<int64_t> attribute) {
    return input < node.num_inputs() && node.has_input(input) ? node.constants[input]->to_ints() : attribute;
  };
  const std::vector<int64_t> starts = list(1, dims_attr(node, "starts")), axes = list(3, node.attrs().get_ints("axes", {})),
                             steps = list(4, node.attrs().get_ints("steps", {}));
  StridedMove move{.shape = node.output_shapes[0], .strides = strides_of(in)};
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t axis = i < axes.size() ? normalize_axis(axes[i], rank) : static_cast<int64_t>(i);
    const int64_t step = i < steps.size() ? steps[i] : 1, dim = in[axis];
    int64_t start = starts[i] < 0 ? starts[i] + dim : starts[i];
    start = std::min(std::max<int64_t>(start, 0), step < 0 ? dim - 1 : dim);
    move.offset += start * move.strides[axis];
    move.strides[axis] *= step;
  }
  for (size_t d = 0; d < move.shape.size(); ++d)
    if (move.shape[d] == 1) move.strides[d] = 0;  // a huge step is never taken
  return move;
}

// --- expand: a pointwise copy ---

class ExpandDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.expand"; }
  std::string_view op() const override { return "expand"; }
  Support supports(const NodeView& node) const override {
    if (const Support support = supports_moving(node); !support) return support;
    return supports_elementwise(node, 2);
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const int64_t bytes = bytes_of_element(node.input_dtypes[0]);
    const std::string type = bytes == 8 ? "uint64_t" : unit_type(bytes);
    return make_elementwise(
        node, node.output_shapes[0],
        {.name = "cuda.expand", .preamble = {}, .inputs = {{0, type, type, {}}}, .outputs = {{0, type, type, {}}}, .body = "y0 = x0;"});
  }
};

// --- ops with a rule per element ---

Support supports_pad(const NodeView& node) {
  if (const Support support = supports_moving(node); !support) return support;
  for (int i : {1, 3})
    if (i < node.num_inputs())
      if (const Support support = needs_constant(node, i, "pads and axes"); !support) return support;
  if (node.output_dtypes[0] == DType::Bool && node.attrs().get_float("value", 0) != 0) return Support::no("a bool filler in an attribute");
  return Support::yes();
}
std::vector<IndexedCode> pad(const NodeView& node) {
  const Shape &in = node.input_shapes[0], &out = node.output_shapes[0];
  const size_t rank = in.size();
  const std::string mode = node.attrs().get_string("mode", "constant");
  const int64_t bytes = bytes_of_element(node.input_dtypes[0]);
  const auto has = [&](int i) { return i < node.num_inputs() && node.has_input(i); };
  const std::vector<int64_t> pads = has(1) ? node.constants[1]->to_ints() : dims_attr(node, "pads");
  const std::vector<int64_t> axes = has(3) ? node.constants[3]->to_ints() : node.attrs().get_ints("axes", {});
  std::vector<int64_t> begin(rank, 0);
  const size_t count = pads.size() / 2;
  if (count > rank || (!axes.empty() && axes.size() != count))
    fail(ErrorCode::InvalidArgument, "[pad] {} pads do not fit rank {}", pads.size(), rank);
  for (size_t i = 0; i < count; ++i)
    begin[axes.empty() ? static_cast<int64_t>(i) : normalize_axis(axes[i], static_cast<int64_t>(rank))] = pads[i];
  // Neighbouring axes that stay as they are move as one.
  struct Axis {
    int64_t in, out, begin;
  };
  std::vector<Axis> joined;
  bool last_is_whole = false;
  for (size_t d = 0; d < rank; ++d) {
    const bool whole = begin[d] == 0 && in[d] == out[d];
    if (whole && last_is_whole) joined.back().in *= in[d], joined.back().out *= out[d];
    else joined.push_back({in[d], out[d], begin[d]});
    last_is_whole = whole;
  }
  // Where the last of them stays, its elements move in larger units; a filler that only the device knows has no larger form.
  int64_t unit = bytes;
  if (last_is_whole && !(has(2) && mode == "constant")) {
    unit = std::max(bytes, unit_bytes({joined.back().in * bytes}));
    joined.back().in /= unit / bytes, joined.back().out /= unit / bytes;
  }
  IndexedCode code{.name = {}, .preamble = {}, .body = {}};
  code.inputs = {{0, unit_type(unit)}};
  code.outputs = {{0, unit_type(unit)}};
  code.count = num_elements(out) * bytes / unit, code.largest = num_elements(in) * bytes / unit;
  std::string value;
  if (has(2)) {
    if (mode == "constant") code.inputs.push_back({2, unit_type(unit)});
    value = "in1[0]";
  } else {
    Tensor filler = Tensor::zeros(node.output_dtypes[0], {});
    if (const double v = node.attrs().get_float("value", 0); v != 0) cpu::ref::from_doubles({v}, filler);
    value = element_literal(filler, unit);
  }
  Shape out_sizes, in_sizes;
  for (const Axis& axis : joined) out_sizes.push_back(axis.out), in_sizes.push_back(axis.in);
  code.body = split_index(out_sizes);
  std::string at;
  const std::vector<int64_t> strides = strides_of(in_sizes);
  for (size_t d = 0; d < joined.size(); ++d) {
    const auto [n, total, first] = joined[d];
    if (first == 0 && n == total) {
      code.body += fmt::format("  const Index s{0} = c{0};\n", d);
    } else {
      code.body += fmt::format("  Index s{0} = c{0} - Index({1});\n", d, first);
      if (mode == "constant" || n == 0) {
        code.body += fmt::format("  if (s{0} < 0 || s{0} >= {1}) {{\n    out0[i] = {2};\n    return;\n  }}\n", d, n, value);
      } else if (mode == "edge") {
        code.body += fmt::format("  s{0} = s{0} < 0 ? 0 : s{0} >= {1} ? {1} - 1 : s{0};\n", d, n);
      } else if (mode == "wrap") {
        code.body += fmt::format("  s{0} = (s{0} % {1} + {1}) % {1};\n", d, n);
      } else if (n == 1) {
        code.body += fmt::format("  s{} = 0;\n", d);
      } else {
        code.body += fmt::format("  s{0} = (s{0} % {1} + {1}) % {1};\n  if (s{0} >= {2}) s{0} = {1} - s{0};\n", d, 2 * (n - 1), n);
      }
    }
    at += fmt::format("{}s{} * Index({})", d > 0 ? " + " : "", d, strides[d]);
  }
  code.body += "  out0[i] = in0[" + (at.empty() ? "0" : at) + "];";
  return {code};
}

std::vector<IndexedCode> trilu(const NodeView& node) {
  const Shape& shape = node.input_shapes[0];
  const std::string type = unit_type(bytes_of_element(node.input_dtypes[0]));
  IndexedCode code{.name = {}, .preamble = {}, .inputs = {{0, type}}, .outputs = {{0, type}}, .count = num_elements(shape), .body = {}};
  const bool has_k = node.num_inputs() > 1 && node.has_input(1);
  if (has_k) code.inputs.push_back({1, device_type(node.input_dtypes[1])});
  code.body = fmt::format(
      "  const int64_t column = i % {0}, row = i / {0} % {1}, k = {2};\n  const bool kept = {3};\n  out0[i] = kept ? in0[i] : {4}{{}};",
      shape.back(), shape[shape.size() - 2], has_k ? "in1[0]" : "0",
      node.attrs().get_bool("upper", true) ? "k <= column - row" : "column - row <= k", type);
  return {code};
}

std::vector<IndexedCode> reverse_sequence(const NodeView& node) {
  const Shape& shape = node.input_shapes[0];
  const int64_t rank = static_cast<int64_t>(shape.size());
  const int64_t batch = normalize_axis(node.attrs().get_int("batch_axis", 1), rank),
                time = normalize_axis(node.attrs().get_int("time_axis", 0), rank);
  const std::string type = unit_type(bytes_of_element(node.input_dtypes[0]));
  const int64_t step = strides_of(shape)[time];
  IndexedCode code{.name = {}, .preamble = {}, .body = {}};
  code.inputs = {{0, type}, {1, device_type(node.input_dtypes[1])}};
  code.outputs = {{0, type}};
  code.count = num_elements(shape);
  code.body =
      split_index(shape) +
      fmt::format(
          "  const Index length = in1[c{0}] > {3} ? {3} : in1[c{0}];\n  const Index from = c{1} < length ? length - 1 - c{1} : c{1};\n"
          "  out0[i] = in0[i + (from - c{1}) * {2}];",
          batch, time, step, shape[time]);
  return {code};
}

}  // namespace

std::vector<const KernelDef*> movement_kernels() {
  static const MoveDef transposes("transpose", always, transpose), tiles("tile", always, tile), slices("slice", supports_slice, slice),
      depth("depth_to_space", always, depth_to_space), space("space_to_depth", always, space_to_depth);
  static const ExpandDef expand;
  static const IndexedDef pads("pad", supports_pad, pad), trilus("trilu", supports_first, trilu),
      reverse("reverse_sequence", supports_first, reverse_sequence);
  return {&transposes, &tiles, &slices, &depth, &space, &expand, &pads, &trilus, &reverse};
}

}  // namespace tokamak::cuda
