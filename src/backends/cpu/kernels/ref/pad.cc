// pad: constant, reflect, edge and wrap; negative pads crop.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

enum class Mode { Constant, Reflect, Edge, Wrap };

// The input index that output index `i - begin` shows, or -1 for the fill value.
int64_t source(int64_t i, int64_t n, Mode mode) {
  if (i >= 0 && i < n) return i;
  if (mode == Mode::Constant || n == 0) return -1;
  if (mode == Mode::Edge) return std::clamp<int64_t>(i, 0, n - 1);
  if (mode == Mode::Wrap) return ((i % n) + n) % n;
  if (n == 1) return 0;
  const int64_t period = 2 * (n - 1), r = ((i % period) + period) % period;
  return r < n ? r : period - r;
}

// The pads of one node resolved against its shapes.
struct Padding {
  Shape in, out;
  std::vector<int64_t> strides;
  std::vector<std::vector<int64_t>> sources;  // per axis and output index
  int64_t copy_begin = 0, copy_end = 0;       // the columns that are consecutive input: copied at once

  Padding(const Shape& in, const Shape& out, Mode mode, const std::vector<int64_t>& pads, const std::vector<int64_t>& axes)
      : in(in), out(out), strides(strides_of(in)), sources(in.size()) {
    const int64_t rank = static_cast<int64_t>(in.size());
    if (rank == 0) return;
    if (rank > kMaxRank) fail(ErrorCode::Unsupported, "[pad] rank {}: tensors have at most {} axes here", rank, kMaxRank);
    std::vector<int64_t> begin(rank, 0);
    const size_t count = pads.size() / 2;
    if (count > static_cast<size_t>(rank) || (!axes.empty() && axes.size() != count))
      fail(ErrorCode::InvalidArgument, "[pad] {} pads do not fit rank {}", pads.size(), rank);
    for (size_t i = 0; i < count; ++i) begin[axes.empty() ? static_cast<int64_t>(i) : normalize_axis(axes[i], rank)] = pads[i];
    for (int64_t d = 0; d < rank; ++d)
      for (int64_t o = 0; o < out[d]; ++o) sources[d].push_back(source(o - begin[d], in[d], mode));
    copy_begin = std::min(std::max<int64_t>(begin[rank - 1], 0), out[rank - 1]);
    copy_end = std::min(std::max(begin[rank - 1] + in[rank - 1], copy_begin), out[rank - 1]);
  }

  void run(const Tensor& x, const Tensor& value, Tensor& y) const {
    const int64_t rank = static_cast<int64_t>(in.size());
    if (rank == 0) return copy_all(x, y);
    if (y.count() == 0) return;
    const int64_t cols = out[rank - 1], rows = y.count() / cols;
    const std::vector<int64_t>& columns = sources[rank - 1];
    int64_t index[kMaxRank] = {};
    for (int64_t r = 0; r < rows; ++r) {
      int64_t base = 0;
      bool outside = false;
      for (int64_t d = 0; d + 1 < rank; ++d) {
        const int64_t s = sources[d][index[d]];
        outside |= s < 0;
        base += s * strides[d];
      }
      for (int64_t c = 0; c < cols; ++c) {
        if (!outside && c == copy_begin && copy_end > copy_begin) {
          copy_block(x, base + columns[c], y, r * cols + c, copy_end - copy_begin);
          c = copy_end - 1;
        } else if (outside || columns[c] < 0) {
          copy_element(value, 0, y, r * cols + c);
        } else {
          copy_element(x, base + columns[c], y, r * cols + c);
        }
      }
      for (int64_t d = rank - 2; d >= 0 && ++index[d] == out[d]; --d) index[d] = 0;
    }
  }
};

RunFunction prepare_pad(const NodeView& node) {
  const Shape in = node.input_shapes[0], out = node.output_shapes[0];
  const std::string text = node.attrs().get_string("mode", "constant");
  Mode mode = Mode::Constant;
  if (text == "reflect") mode = Mode::Reflect;
  else if (text == "edge") mode = Mode::Edge;
  else if (text == "wrap") mode = Mode::Wrap;
  else if (text != "constant") fail_node(node, ErrorCode::Unsupported, "mode \"{}\"", text);
  const std::vector<int64_t> pads_attr = dims_attr(node, "pads"), axes_attr = node.attrs().get_ints("axes", {});
  const bool pads_input = node.has_input(1), value_input = node.has_input(2), axes_input = node.has_input(3);
  Tensor value_attr = Tensor::zeros(node.output_dtypes[0], {});
  if (const double value = node.attrs().get_float("value", 0); value != 0) from_doubles({value}, value_attr);
  if (!pads_input && !axes_input)
    return [=, padding = Padding(in, out, mode, pads_attr, axes_attr)](const RunArgs& args) {
      padding.run(args.inputs[0], value_input ? args.inputs[2] : value_attr, args.outputs[0]);
    };
  return [=](const RunArgs& args) {
    const Padding padding(in, out, mode, pads_input ? args.inputs[1].to_ints() : pads_attr,
                          axes_input ? args.inputs[3].to_ints() : axes_attr);
    padding.run(args.inputs[0], value_input ? args.inputs[2] : value_attr, args.outputs[0]);
  };
}

}  // namespace

KernelList pad_kernels() { return {define("pad", prepare_pad)}; }

}  // namespace tokamak::cpu::ref
