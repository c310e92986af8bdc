#include "backends/cuda/kernels/conv_shape.h"

#include <algorithm>

#include "ir/op.h"

namespace tokamak::cuda {
namespace {

Triple triple(const std::vector<int64_t>& values, int64_t missing) {
  Triple t{missing, missing, missing};
  for (size_t i = 0; i < values.size() && i < 3; ++i) t[3 - values.size() + i] = values[i];
  return t;
}

}  // namespace

Support conv_shape(const NodeView& node, ConvShape& s) {
  const Shape &x = node.input_shapes[0], &w = node.input_shapes[1], &y = node.output_shapes[0];
  const size_t rank = x.size();
  if (rank < 3 || rank > 5) return Support::no(fmt::format("the input has {} spatial axes, 1 to 3 are supported", int(rank) - 2));
  if (w.size() != rank || y.size() != rank) return Support::no("ranks of input, weights and output differ");
  const ir::Attrs& attrs = node.attrs();
  s.transposed = node.node->op().name == "conv_transpose";
  s.channels_last = attrs.get_string("layout", "NCHW") == "NHWC";
  s.spatial_rank = static_cast<int>(rank) - 2;
  const size_t channel = s.channels_last ? rank - 1 : 1, first = s.channels_last ? 1 : 2;
  s.n = x[0], s.c = x[channel], s.m = y[channel];
  s.group = attrs.get_int("group", 1);
  if (s.group < 1 || s.c % s.group || s.m % s.group || w[0] != (s.transposed ? s.c : s.m) || w[1] * s.group != (s.transposed ? s.m : s.c))
    return Support::no("groups do not fit the channels");
  const auto spatial = [&](const Shape& shape) {
    return triple({shape.begin() + static_cast<int64_t>(first), shape.begin() + static_cast<int64_t>(first + rank - 2)}, 1);
  };
  s.size = spatial(x), s.out = spatial(y);
  s.kernel = triple({w.begin() + 2, w.end()}, 1);
  s.stride = triple(attrs.get_ints("strides", {}), 1);
  s.dilation = triple(attrs.get_ints("dilations", {}), 1);
  const ir::Ints pads = attrs.get_ints("pads", {});
  const auto half = static_cast<int64_t>(pads.size() / 2);
  s.pad_begin = triple({pads.begin(), pads.begin() + half}, 0);
  s.pad_end = triple({pads.begin() + half, pads.end()}, 0);
  const std::string auto_pad = attrs.get_string("auto_pad", "NOTSET");
  const bool same = auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER";
  if (auto_pad == "VALID") s.pad_begin = s.pad_end = {0, 0, 0};
  if (same || (s.transposed && attrs.has("output_shape"))) {
    const Triple extra = triple(attrs.get_ints("output_padding", {}), 0);
    for (int i = 0; i < 3; ++i) {
      const Triple &small = s.transposed ? s.size : s.out, &large = s.transposed ? s.out : s.size;
      const int64_t total = std::max<int64_t>(
          0, (small[i] - 1) * s.stride[i] + (s.transposed ? extra[i] : 0) + (s.kernel[i] - 1) * s.dilation[i] + 1 - large[i]);
      s.pad_begin[i] = auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
      s.pad_end[i] = total - s.pad_begin[i];
    }
  }
  return Support::yes();
}

std::vector<std::string> ConvShape::defines() const {
  std::vector<std::string> list;
  const auto define = [&](const std::string& name, int64_t value) { list.push_back(fmt::format("{}={}", name, value)); };
  const auto define_triple = [&](const std::string& name, const Triple& t) {
    for (int i = 0; i < 3; ++i) define(fmt::format("{}_{}", name, "DHW"[i]), t[i]);
  };
  define("C_SIZE", c), define("M_SIZE", m), define("GROUP", group);
  define_triple("IN", size), define_triple("OUT", out), define_triple("KERNEL", kernel);
  define_triple("STRIDE", stride), define_triple("DILATION", dilation), define_triple("PAD", pad_begin);
  define("CHANNELS_LAST", channels_last);
  return list;
}

}  // namespace tokamak::cuda
