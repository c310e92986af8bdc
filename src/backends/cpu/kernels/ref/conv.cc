// conv, conv_integer and conv_transpose by their definition, accumulated in double.

#include <algorithm>

#include "backends/cpu/kernels/ref/expr_ref.h"
#include "backends/cpu/kernels/ref/window.h"

namespace tokamak::cpu::ref {
namespace {

// Outputs o in [begin, end) for which o * stride + offset lies in [0, size).
std::pair<int64_t, int64_t> valid_range(int64_t offset, int64_t stride, int64_t size, int64_t out) {
  const int64_t begin = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
  const int64_t end = size - offset <= 0 ? 0 : (size - offset + stride - 1) / stride;
  return {std::min(begin, out), std::min(end, out)};
}

// One output plane: out += sum over the group's channels of x convolved with w. x is planar; `w` is [channels of the group, kernel].
void convolve_plane(const Window& window, const Planes& in, const Triple& out_size, const double* x, const double* w, int64_t channels,
                    double* out) {
  for (int64_t c = 0; c < channels; ++c, x += in.area())
    for (int64_t kd = 0; kd < window.kernel[0]; ++kd)
      for (int64_t kh = 0; kh < window.kernel[1]; ++kh)
        for (int64_t kw = 0; kw < window.kernel[2]; ++kw) {
          const double weight = *w++;
          const Triple offset{kd * window.dilation[0] - window.pad_begin[0], kh * window.dilation[1] - window.pad_begin[1],
                              kw * window.dilation[2] - window.pad_begin[2]};
          const auto [d0, d1] = valid_range(offset[0], window.stride[0], in.size[0], out_size[0]);
          const auto [h0, h1] = valid_range(offset[1], window.stride[1], in.size[1], out_size[1]);
          const auto [w0, w1] = valid_range(offset[2], window.stride[2], in.size[2], out_size[2]);
          for (int64_t d = d0; d < d1; ++d)
            for (int64_t h = h0; h < h1; ++h) {
              const double* line =
                  x + ((d * window.stride[0] + offset[0]) * in.size[1] + h * window.stride[1] + offset[1]) * in.size[2] + offset[2];
              double* to = out + (d * out_size[1] + h) * out_size[2];
              for (int64_t i = w0; i < w1; ++i) to[i] += weight * line[i * window.stride[2]];
            }
        }
}

// Calls sink(index in the output, value) for every output.
template <class Sink>
void convolve(const Window& window, const Planes& in, const Planes& out, int64_t group, const std::vector<double>& x,
              const std::vector<double>& w, const Sink& sink) {
  const int64_t in_per_group = in.channels / group, out_per_group = out.channels / group, area = out.area();
  std::vector<double> plane(area);
  for (int64_t n = 0; n < out.batch; ++n)
    for (int64_t m = 0; m < out.channels; ++m) {
      std::fill(plane.begin(), plane.end(), 0);
      const int64_t first = m / out_per_group * in_per_group;
      convolve_plane(window, in, out.size, x.data() + (n * in.channels + first) * in.area(), w.data() + m * in_per_group * window.area(),
                     in_per_group, plane.data());
      const int64_t step = out.channel_stride == 1 && out.channels > 1 ? out.channels : 1;
      for (int64_t i = 0; i < area; ++i) sink(n * out.batch_stride + m * out.channel_stride + i * step, m, plane[i]);
    }
}

Shape kernel_shape(const NodeView& node) { return Shape(node.input_shapes[1].begin() + 2, node.input_shapes[1].end()); }

int64_t checked_group(const NodeView& node, const Planes& in, const Planes& out) {
  const int64_t group = node.attrs().get_int("group", 1);
  if (group < 1 || in.channels % group != 0 || out.channels % group != 0 || node.input_shapes[1][1] != in.channels / group)
    fail_node(node, ErrorCode::InvalidArgument, "weights {} do not fit {} input and {} output channels in {} groups",
              to_string(node.input_shapes[1]), in.channels, out.channels, group);
  return group;
}

RunFunction prepare_conv(const NodeView& node) {
  const Planes in(node.input_shapes[0], is_channels_last(node)), out(node.output_shapes[0], is_channels_last(node));
  const Window window(node, kernel_shape(node), in, out);
  const int64_t group = checked_group(node, in, out);
  const Epilogue epilogue(node);
  const int64_t epilogue_input = node.attrs().get_int("epilogue_input", node.num_inputs());
  const bool has_bias = node.has_input(2) && !(epilogue && epilogue_input <= 2);
  return [=](const RunArgs& args) {
    const std::vector<double> x = planar_doubles(args.inputs[0], in), w = to_doubles(args.inputs[1]);
    const std::vector<double> bias = has_bias ? to_doubles(args.inputs[2]) : std::vector<double>(out.channels, 0.0);
    std::vector<double> y(args.outputs[0].count());
    convolve(window, in, out, group, x, w, [&](int64_t at, int64_t m, double value) { y[at] = value + bias[m]; });
    if (epilogue) {
      std::vector<float> values(y.begin(), y.end());
      epilogue.apply(values, args);
      y.assign(values.begin(), values.end());
    }
    from_doubles(y, args.outputs[0]);
  };
}

RunFunction prepare_conv_integer(const NodeView& node) {
  const Planes in(node.input_shapes[0], is_channels_last(node)), out(node.output_shapes[0], is_channels_last(node));
  const Window window(node, kernel_shape(node), in, out);
  const int64_t group = checked_group(node, in, out);
  return [=](const RunArgs& args) {
    std::vector<double> x = planar_doubles(args.inputs[0], in), w = to_doubles(args.inputs[1]);
    const auto zero_points = [&](size_t i) {
      return args.inputs.size() > i && args.inputs[i].defined() ? to_doubles(args.inputs[i]) : std::vector<double>{0};
    };
    const std::vector<double> x_zero = zero_points(2), w_zero = zero_points(3);
    for (double& v : x) v -= x_zero[0];  // padding stands for the zero point, hence for 0 here
    const int64_t per_channel = static_cast<int64_t>(w.size()) / std::max<int64_t>(1, out.channels);
    for (size_t i = 0; i < w.size(); ++i) w[i] -= w_zero[w_zero.size() == 1 ? 0 : i / per_channel];
    convolve(window, in, out, group, x, w, [&](int64_t at, int64_t, double value) {
      args.outputs[0].data<int32_t>()[at] = static_cast<int32_t>(static_cast<int64_t>(value));
    });
  };
}

RunFunction prepare_conv_transpose(const NodeView& node) {
  const Planes in(node.input_shapes[0], is_channels_last(node)), out(node.output_shapes[0], is_channels_last(node));
  const Shape w_shape = node.input_shapes[1];  // [C, M/group, k...]
  Window window(node, kernel_shape(node), in, out);
  const int64_t group = node.attrs().get_int("group", 1);
  if (group < 1 || w_shape[0] != in.channels || in.channels % group != 0 || w_shape[1] * group != out.channels)
    fail_node(node, ErrorCode::InvalidArgument, "weights {} do not fit {} input and {} output channels in {} groups", to_string(w_shape),
              in.channels, out.channels, group);
  const std::string auto_pad = node.attrs().get_string("auto_pad", "NOTSET");
  const Triple extra = spatial_triple(node.attrs().get_ints("output_padding", {}), 0);
  if (auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER" || node.attrs().has("output_shape")) {
    for (int i = 0; i < 3; ++i) {
      const int64_t total = std::max<int64_t>(
          0, (in.size[i] - 1) * window.stride[i] + extra[i] + (window.kernel[i] - 1) * window.dilation[i] + 1 - out.size[i]);
      window.pad_begin[i] = auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
    }
  }
  const bool has_bias = node.has_input(2);
  return [=](const RunArgs& args) {
    const std::vector<double> x = planar_doubles(args.inputs[0], in), w = to_doubles(args.inputs[1]);
    const std::vector<double> bias = has_bias ? to_doubles(args.inputs[2]) : std::vector<double>(out.channels, 0.0);
    const int64_t in_per_group = in.channels / group, out_per_group = out.channels / group;
    std::vector<double> y(args.outputs[0].count());
    for (int64_t n = 0; n < out.batch; ++n)
      for (int64_t m = 0; m < out.channels; ++m)
        for (int64_t i = 0; i < out.area(); ++i)
          y[out.at(n, m, i / (out.size[1] * out.size[2]), i / out.size[2] % out.size[1], i % out.size[2])] = bias[m];
    for (int64_t n = 0; n < in.batch; ++n)
      for (int64_t c = 0; c < in.channels; ++c)
        for (int64_t i = 0; i < in.area(); ++i) {
          const double value = x[(n * in.channels + c) * in.area() + i];
          const Triple at{i / (in.size[1] * in.size[2]), i / in.size[2] % in.size[1], i % in.size[2]};
          for (int64_t m = 0; m < out_per_group; ++m)
            for (int64_t k = 0; k < window.area(); ++k) {
              const Triple tap{k / (window.kernel[1] * window.kernel[2]), k / window.kernel[2] % window.kernel[1], k % window.kernel[2]};
              Triple o;
              bool inside = true;
              for (int s = 0; s < 3; ++s) {
                o[s] = at[s] * window.stride[s] + tap[s] * window.dilation[s] - window.pad_begin[s];
                inside &= o[s] >= 0 && o[s] < out.size[s];
              }
              if (inside)
                y[out.at(n, c / in_per_group * out_per_group + m, o[0], o[1], o[2])] +=
                    value * w[(c * out_per_group + m) * window.area() + k];
            }
        }
    from_doubles(y, args.outputs[0]);
  };
}

}  // namespace

KernelList conv_kernels() {
  return {define("conv", prepare_conv), define("conv_integer", prepare_conv_integer), define("conv_transpose", prepare_conv_transpose)};
}

}  // namespace tokamak::cpu::ref
