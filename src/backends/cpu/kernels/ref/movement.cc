// Ops that move elements without computing: views, transpose, expand, concat, split, slice, tile, block rearrangements, trilu,
// reverse_sequence.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

RunFunction prepare_copy(const NodeView&) {
  return [](const RunArgs& args) { copy_all(args.inputs[0], args.outputs[0]); };
}

// A walk of `shape` with strides on both sides.
struct Walk {
  Shape shape;
  std::vector<int64_t> in, out;
  RunFunction runner() const {
    return [walk = *this](const RunArgs& args) { copy_strided(args.inputs[0], 0, walk.in, args.outputs[0], 0, walk.out, walk.shape); };
  }
};

// Reads along the axis that is contiguous in memory in small squares: a plain walk of a large matrix misses the cache on every element.
template <class T>
void transpose_square(const T* from, T* to, int64_t rows, int64_t cols, int64_t in_col_stride, int64_t out_row_stride) {
  constexpr int64_t kBlock = 32;
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock)
    for (int64_t c0 = 0; c0 < cols; c0 += kBlock)
      for (int64_t r = r0; r < std::min(rows, r0 + kBlock); ++r)
        for (int64_t c = c0; c < std::min(cols, c0 + kBlock); ++c) to[r * out_row_stride + c] = from[r + c * in_col_stride];
}

RunFunction prepare_transpose(const NodeView& node) {
  const Shape& in = node.input_shapes[0];
  const int64_t rank = static_cast<int64_t>(in.size());
  std::vector<int64_t> perm = node.attrs().get_ints("perm", {});
  if (perm.empty())
    for (int64_t i = rank - 1; i >= 0; --i) perm.push_back(i);
  const std::vector<int64_t> in_strides = strides_of(in);
  Walk walk;
  walk.shape = node.output_shapes[0];
  walk.out = strides_of(walk.shape);
  for (int64_t i = 0; i < rank; ++i) walk.in.push_back(in_strides[perm[i]]);
  const int bits = bits_of(node.input_dtypes[0]);
  int64_t fast = -1;  // the output axis along which the input is contiguous
  for (int64_t i = 0; i < rank; ++i)
    if (walk.in[i] == 1 && walk.shape[i] > 1) fast = i;
  if (bits < 8 || fast < 0 || fast == rank - 1 || size_of(walk.shape) < 4096) return walk.runner();
  const int64_t rows = walk.shape[fast], cols = walk.shape[rank - 1], in_col_stride = walk.in[rank - 1], out_row_stride = walk.out[fast];
  for (int64_t i : {rank - 1, fast}) {
    walk.shape.erase(walk.shape.begin() + i);
    walk.in.erase(walk.in.begin() + i);
    walk.out.erase(walk.out.begin() + i);
  }
  return [=, strides = std::array<std::vector<int64_t>, 2>{walk.in, walk.out}](const RunArgs& args) {
    visit_bytes(bits, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for_each_row(walk.shape, strides, [&](const auto& at, const auto& step, int64_t count) {
        for (int64_t k = 0; k < count; ++k)
          transpose_square(args.inputs[0].data<T>() + at[0] + k * step[0], args.outputs[0].data<T>() + at[1] + k * step[1], rows, cols,
                           in_col_stride, out_row_stride);
      });
    });
  };
}

RunFunction prepare_expand(const NodeView& node) {
  const Shape& shape = node.output_shapes[0];
  return Walk{shape, broadcast_strides(node.input_shapes[0], shape), strides_of(shape)}.runner();
}

// Where each part of a concatenation or split lies in the whole.
struct Part {
  int64_t offset;
  std::vector<int64_t> strides, whole_strides;
  Shape shape;
};

std::vector<Part> parts_of(const Shape& whole, int64_t axis, const std::vector<Shape>& shapes) {
  const std::vector<int64_t> strides = strides_of(whole);
  std::vector<Part> parts;
  int64_t at = 0;
  for (const Shape& shape : shapes) {
    parts.push_back({at * strides[axis], strides_of(shape), strides, shape});
    at += shape[axis];
  }
  return parts;
}

RunFunction prepare_concat(const NodeView& node) {
  const Shape& whole = node.output_shapes[0];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis"), static_cast<int64_t>(whole.size()));
  return [parts = parts_of(whole, axis, node.input_shapes)](const RunArgs& args) {
    for (size_t i = 0; i < parts.size(); ++i)
      copy_strided(args.inputs[i], 0, parts[i].strides, args.outputs[0], parts[i].offset, parts[i].whole_strides, parts[i].shape);
  };
}

RunFunction prepare_split(const NodeView& node) {
  const Shape& whole = node.input_shapes[0];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", 0), static_cast<int64_t>(whole.size()));
  return [parts = parts_of(whole, axis, node.output_shapes)](const RunArgs& args) {
    for (size_t i = 0; i < parts.size(); ++i)
      copy_strided(args.inputs[0], parts[i].offset, parts[i].whole_strides, args.outputs[i], 0, parts[i].strides, parts[i].shape);
  };
}

// Offset of the first element, and `strides` (those of the input) turned into those of the slice. Ends need no look: the output's shape is
// known.
int64_t apply_slice(const Shape& in, const std::vector<int64_t>& starts, const std::vector<int64_t>& axes,
                    const std::vector<int64_t>& steps, std::vector<int64_t>& strides) {
  const int64_t rank = static_cast<int64_t>(in.size());
  int64_t offset = 0;
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t axis = i < axes.size() ? normalize_axis(axes[i], rank) : static_cast<int64_t>(i);
    const int64_t step = i < steps.size() ? steps[i] : 1, dim = in[axis];
    int64_t start = starts[i] < 0 ? starts[i] + dim : starts[i];
    start = std::min(std::max<int64_t>(start, 0), step < 0 ? dim - 1 : dim);
    offset += start * strides[axis];
    strides[axis] *= step;
  }
  return offset;
}

RunFunction prepare_slice(const NodeView& node) {
  const Shape in = node.input_shapes[0], out = node.output_shapes[0];
  const std::vector<int64_t> starts_attr = dims_attr(node, "starts"), axes_attr = node.attrs().get_ints("axes", {}),
                             steps_attr = node.attrs().get_ints("steps", {});
  const bool starts_input = node.has_input(1), axes_input = node.has_input(3), steps_input = node.has_input(4);
  const std::vector<int64_t> out_strides = strides_of(out);
  if (!starts_input && !axes_input && !steps_input) {
    std::vector<int64_t> strides = strides_of(in);
    const int64_t offset = apply_slice(in, starts_attr, axes_attr, steps_attr, strides);
    return [=](const RunArgs& args) { copy_strided(args.inputs[0], offset, strides, args.outputs[0], 0, out_strides, out); };
  }
  return [=](const RunArgs& args) {
    std::vector<int64_t> strides = strides_of(in);
    const int64_t offset =
        apply_slice(in, starts_input ? args.inputs[1].to_ints() : starts_attr, axes_input ? args.inputs[3].to_ints() : axes_attr,
                    steps_input ? args.inputs[4].to_ints() : steps_attr, strides);
    copy_strided(args.inputs[0], offset, strides, args.outputs[0], 0, out_strides, out);
  };
}

RunFunction prepare_tile(const NodeView& node) {
  const Shape in = node.input_shapes[0], out = node.output_shapes[0];
  const std::vector<int64_t> in_strides = strides_of(in), out_strides = strides_of(out);
  Walk walk;  // every axis becomes (repeat, element)
  for (size_t i = 0; i < in.size(); ++i) {
    walk.shape.insert(walk.shape.end(), {in[i] == 0 ? 0 : out[i] / in[i], in[i]});
    walk.in.insert(walk.in.end(), {0, in_strides[i]});
    walk.out.insert(walk.out.end(), {in[i] * out_strides[i], out_strides[i]});
  }
  return walk.runner();
}

// Views the input as `split`, permutes it by `perm`, and writes that in order.
RunFunction rearrange(const Shape& split, const std::vector<int64_t>& perm) {
  const std::vector<int64_t> strides = strides_of(split);
  Walk walk;
  for (int64_t axis : perm) {
    walk.shape.push_back(split[axis]);
    walk.in.push_back(strides[axis]);
  }
  walk.out = strides_of(walk.shape);
  return walk.runner();
}

RunFunction prepare_depth_to_space(const NodeView& node) {
  const Shape& in = node.input_shapes[0];
  const int64_t b = node.attrs().get_int("blocksize"), c = in[1] / (b * b);
  if (node.attrs().get_string("mode", "DCR") == "DCR") return rearrange({in[0], b, b, c, in[2], in[3]}, {0, 3, 4, 1, 5, 2});
  return rearrange({in[0], c, b, b, in[2], in[3]}, {0, 1, 4, 2, 5, 3});
}

RunFunction prepare_space_to_depth(const NodeView& node) {
  const Shape& in = node.input_shapes[0];
  const int64_t b = node.attrs().get_int("blocksize");
  return rearrange({in[0], in[1], in[2] / b, b, in[3] / b, b}, {0, 3, 5, 1, 2, 4});
}

RunFunction prepare_trilu(const NodeView& node) {
  const Shape shape = node.input_shapes[0];
  const bool upper = node.attrs().get_bool("upper", true), has_k = node.has_input(1);
  if (shape.size() < 2) fail_node(node, ErrorCode::InvalidArgument, "expected rank 2 or more, found {}", to_string(shape));
  return [=](const RunArgs& args) {
    const int64_t k = has_k ? args.inputs[1].int_at(0) : 0, rows = shape[shape.size() - 2], cols = shape.back();
    copy_all(args.inputs[0], args.outputs[0]);
    if (rows * cols == 0) return;
    const int64_t bytes = bits_of(args.outputs[0].dtype()) / 8, count = args.outputs[0].count() / cols;
    char* data = static_cast<char*>(args.outputs[0].raw());
    for (int64_t r = 0; r < count; ++r) {
      // Upper keeps columns >= row + k, lower those <= row + k.
      const int64_t row = r % rows, diagonal = std::clamp<int64_t>(std::clamp<int64_t>(k, -rows - 1, cols + 1) + row, -1, cols);
      const int64_t begin = upper ? 0 : diagonal + 1, end = upper ? diagonal : cols;
      if (begin < end) std::memset(data + (r * cols + begin) * bytes, 0, (end - begin) * bytes);
    }
  };
}

RunFunction prepare_reverse_sequence(const NodeView& node) {
  const Shape shape = node.input_shapes[0];
  const int64_t batch_axis = node.attrs().get_int("batch_axis", 1), time_axis = node.attrs().get_int("time_axis", 0);
  const std::string label = label_of(node);
  return [=](const RunArgs& args) {
    copy_all(args.inputs[0], args.outputs[0]);
    const std::vector<int64_t> strides = strides_of(shape);
    Shape slice = shape;
    slice[batch_axis] = 1;
    for (int64_t b = 0; b < shape[batch_axis]; ++b) {
      const int64_t length = args.inputs[1].int_at(b), base = b * strides[batch_axis], step = strides[time_axis];
      if (length < 0 || length > shape[time_axis])
        fail(ErrorCode::OutOfRange, "{} sequence length {} outside [0, {}]", label, length, shape[time_axis]);
      if (length == 0) continue;
      slice[time_axis] = length;
      std::vector<int64_t> backwards = strides;
      backwards[time_axis] = -step;
      copy_strided(args.inputs[0], base + (length - 1) * step, backwards, args.outputs[0], base, strides, slice);
    }
  };
}

}  // namespace

KernelList movement_kernels() {
  return {define("identity", prepare_copy, kInPlace),
          define("reshape", prepare_copy),
          define("transpose", prepare_transpose),
          define("expand", prepare_expand),
          define("concat", prepare_concat),
          define("split", prepare_split),
          define("slice", prepare_slice),
          define("tile", prepare_tile),
          define("depth_to_space", prepare_depth_to_space),
          define("space_to_depth", prepare_space_to_depth),
          define("trilu", prepare_trilu),
          define("reverse_sequence", prepare_reverse_sequence)};
}

}  // namespace tokamak::cpu::ref
