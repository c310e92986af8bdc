#include "backends/cpu/kernels/ref/window.h"

#include <algorithm>

namespace tokamak::cpu::ref {

Planes::Planes(const Shape& shape, bool channels_last) {
  const int64_t rank = static_cast<int64_t>(shape.size()), spatial = rank - 2;
  if (spatial < 1 || spatial > 3)
    fail(ErrorCode::Unsupported, "a window over shape {}: expected one to three spatial axes", to_string(shape));
  const std::vector<int64_t> own = strides_of(shape);
  const int64_t channel_axis = channels_last ? rank - 1 : 1, first = channels_last ? 1 : 2;
  batch = shape[0];
  channels = shape[channel_axis];
  batch_stride = own[0];
  channel_stride = own[channel_axis];
  for (int64_t i = 0; i < spatial; ++i) {
    size[3 - spatial + i] = shape[first + i];
    strides[3 - spatial + i] = own[first + i];
  }
}

Triple spatial_triple(const std::vector<int64_t>& values, int64_t missing) {
  Triple t{missing, missing, missing};
  for (size_t i = 0; i < values.size() && i < 3; ++i) t[3 - values.size() + i] = values[i];
  return t;
}

bool is_channels_last(const NodeView& node) { return node.attrs().get_string("layout", "NCHW") == "NHWC"; }

Window::Window(const NodeView& node, const Shape& kernel_shape, const Planes& in, const Planes& out) {
  const ir::Attrs& attrs = node.attrs();
  kernel = spatial_triple(kernel_shape, 1);
  stride = spatial_triple(attrs.get_ints("strides", {}), 1);
  dilation = spatial_triple(attrs.get_ints("dilations", {}), 1);
  const std::vector<int64_t> pads = attrs.get_ints("pads", {});
  pad_begin = spatial_triple({pads.begin(), pads.begin() + pads.size() / 2}, 0);
  pad_end = spatial_triple({pads.begin() + pads.size() / 2, pads.end()}, 0);
  const std::string auto_pad = attrs.get_string("auto_pad", "NOTSET");
  if (auto_pad == "NOTSET" || auto_pad.empty()) return;
  pad_begin = pad_end = {0, 0, 0};
  if (auto_pad == "VALID") return;
  for (int i = 0; i < 3; ++i) {
    const int64_t total = std::max<int64_t>(0, (out.size[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 - in.size[i]);
    pad_begin[i] = auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
    pad_end[i] = total - pad_begin[i];
  }
}

std::vector<double> planar_doubles(const Tensor& tensor, const Planes& planes) {
  std::vector<double> values = to_doubles(tensor);
  if (planes.channels == 1 || planes.channel_stride != 1) return values;
  std::vector<double> out(values.size());
  size_t i = 0;
  for (int64_t n = 0; n < planes.batch; ++n)
    for (int64_t c = 0; c < planes.channels; ++c)
      for (int64_t s = 0; s < planes.area(); ++s) out[i++] = values[(n * planes.area() + s) * planes.channels + c];
  return out;
}

}  // namespace tokamak::cpu::ref
