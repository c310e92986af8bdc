// resize, one axis after the other: every output coordinate of an axis is a short weighted sum of input coordinates. The formulas are those
// of the ONNX operator's text.

#include "backends/cpu/kernels/ref/resize.h"

#include <algorithm>
#include <limits>

namespace tokamak::cpu::ref {
namespace {

struct Settings {
  std::string mode, coordinates, nearest, aspect;
  double cubic_a = -0.75, extrapolation = 0;
  bool exclude_outside = false, antialias = false;
  std::vector<int64_t> axes;
};

struct Axis {
  int64_t in = 1, out = 1;
  double scale = 1, roi_begin = 0, roi_end = 1;
};

using Taps = ResizeTaps;

double original_coordinate(const Settings& s, const Axis& a, double x) {
  const double length = a.scale * static_cast<double>(a.in), in = static_cast<double>(a.in);
  if (s.coordinates == "asymmetric") return x / a.scale;
  if (s.coordinates == "align_corners") return length == 1 || a.out == 1 ? 0 : x * (in - 1) / (length - 1);
  if (s.coordinates == "tf_half_pixel_for_nn") return (x + 0.5) / a.scale;
  if (s.coordinates == "pytorch_half_pixel") return a.out == 1 ? 0 : (x + 0.5) / a.scale - 0.5;
  if (s.coordinates == "half_pixel_symmetric") {
    const double adjustment = static_cast<double>(a.out) / length, center = in / 2;
    return center * (1 - adjustment) + (x + 0.5) / a.scale - 0.5;
  }
  if (s.coordinates == "tf_crop_and_resize") {
    if (a.out == 1) return 0.5 * (a.roi_begin + a.roi_end) * (in - 1);
    return a.roi_begin * (in - 1) + x * (a.roi_end - a.roi_begin) * (in - 1) / static_cast<double>(a.out - 1);
  }
  return (x + 0.5) / a.scale - 0.5;  // half_pixel
}

double kernel_value(const Settings& s, double t) {
  t = std::fabs(t);
  if (s.mode == "linear") return t < 1 ? 1 - t : 0;
  const double a = s.cubic_a;
  if (t <= 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? ((a * t - 5 * a) * t + 8 * a) * t - 4 * a : 0;
}

int64_t nearest_index(const Settings& s, double x) {
  if (s.nearest == "floor") return static_cast<int64_t>(std::floor(x));
  if (s.nearest == "ceil") return static_cast<int64_t>(std::ceil(x));
  if (s.nearest == "round_prefer_ceil") return static_cast<int64_t>(std::floor(x + 0.5));
  return static_cast<int64_t>(std::ceil(x - 0.5));
}

Taps taps_of(const Settings& s, const Axis& a, int64_t o) {
  const double x = original_coordinate(s, a, static_cast<double>(o));
  if (s.coordinates == "tf_crop_and_resize" && (x < 0 || x > static_cast<double>(a.in - 1))) return {};
  if (s.mode == "nearest") return {{std::clamp<int64_t>(nearest_index(s, x), 0, a.in - 1)}, {1.0}};
  const int64_t base = static_cast<int64_t>(std::ceil(x)) - 1;  // the pixel strictly left of x
  const double ratio = x - static_cast<double>(base), support = s.mode == "linear" ? 1 : 2;
  const double shrink = s.antialias ? std::min(a.scale, 1.0) : 1.0;
  const int64_t first = static_cast<int64_t>(std::floor(-support / shrink)) + 1, last = 1 - first;
  Taps taps;
  double sum = 0;
  for (int64_t i = first; i <= last; ++i) {
    double weight = kernel_value(s, shrink * (static_cast<double>(i) - ratio));
    const int64_t index = base + i;
    if (s.exclude_outside && (index < 0 || index >= a.in)) weight = 0;
    taps.index.push_back(std::clamp<int64_t>(index, 0, a.in - 1));
    taps.weight.push_back(weight);
    sum += weight;
  }
  if (s.exclude_outside || s.antialias)
    for (double& w : taps.weight) w /= sum;
  return taps;
}

std::vector<double> resize_axis(const std::vector<double>& x, int64_t outer, int64_t in, int64_t inner, const std::vector<Taps>& taps,
                                double extrapolation) {
  const int64_t out = static_cast<int64_t>(taps.size());
  std::vector<double> y(outer * out * inner, 0.0);
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t k = 0; k < out; ++k) {
      double* to = y.data() + (o * out + k) * inner;
      if (taps[k].index.empty()) std::fill(to, to + inner, extrapolation);
      for (size_t t = 0; t < taps[k].index.size(); ++t) {
        const double* from = x.data() + (o * in + taps[k].index[t]) * inner;
        for (int64_t i = 0; i < inner; ++i) to[i] += taps[k].weight[t] * from[i];
      }
    }
  return y;
}

std::vector<Axis> resolve_axes(const Settings& s, const Shape& in, const Shape& out, const std::vector<double>& roi,
                               const std::vector<double>& scales, const std::vector<double>& sizes) {
  const int64_t rank = static_cast<int64_t>(in.size());
  std::vector<int64_t> axes;
  for (int64_t axis : s.axes) axes.push_back(normalize_axis(axis, rank));
  if (axes.empty())
    for (int64_t i = 0; i < rank; ++i) axes.push_back(i);
  std::vector<Axis> result(rank);
  for (int64_t i = 0; i < rank; ++i) result[i] = {in[i], out[i], static_cast<double>(out[i]) / static_cast<double>(in[i]), 0, 1};
  const bool uniform = !sizes.empty() && (s.aspect == "not_larger" || s.aspect == "not_smaller");
  double common = s.aspect == "not_larger" ? INFINITY : 0;
  for (size_t i = 0; i < axes.size() && i < sizes.size(); ++i) {
    const double ratio = sizes[i] / static_cast<double>(in[axes[i]]);
    common = s.aspect == "not_larger" ? std::min(common, ratio) : std::max(common, ratio);
  }
  for (size_t i = 0; i < axes.size(); ++i) {
    Axis& axis = result[axes[i]];
    if (uniform) axis.scale = common;
    else if (i < scales.size()) axis.scale = scales[i];
    if (roi.size() == 2 * axes.size()) {
      axis.roi_begin = roi[i];
      axis.roi_end = roi[axes.size() + i];
    }
  }
  return result;
}

Settings settings_of(const NodeView& node) {
  const ir::Attrs& attrs = node.attrs();
  Settings s;
  s.mode = attrs.get_string("mode", "nearest");
  s.coordinates = attrs.get_string("coordinate_transformation_mode", "half_pixel");
  s.nearest = attrs.get_string("nearest_mode", "round_prefer_floor");
  s.aspect = attrs.get_string("keep_aspect_ratio_policy", "stretch");
  s.cubic_a = attrs.get_float("cubic_coeff_a", -0.75);
  s.extrapolation = attrs.get_float("extrapolation_value", 0);
  s.exclude_outside = attrs.get_bool("exclude_outside", false);
  s.antialias = attrs.get_bool("antialias", false);
  s.axes = attrs.get_ints("axes", {});
  if (s.mode != "nearest" && s.mode != "linear" && s.mode != "cubic") fail_node(node, ErrorCode::Unsupported, "mode \"{}\"", s.mode);
  return s;
}

bool stays(const Settings& s, const Axis& a) {
  return a.in == a.out && a.scale == 1 && (s.coordinates != "tf_crop_and_resize" || (a.roi_begin == 0 && a.roi_end == 1));
}

RunFunction prepare_resize(const NodeView& node) {
  const Settings s = settings_of(node);
  const Shape in = node.input_shapes[0], out = node.output_shapes[0];
  return [=](const RunArgs& args) {
    if (args.outputs[0].count() == 0) return;
    const auto input = [&](size_t i) {
      return args.inputs.size() > i && args.inputs[i].defined() && args.inputs[i].count() > 0 ? to_doubles(args.inputs[i])
                                                                                              : std::vector<double>{};
    };
    const std::vector<Axis> axes = resolve_axes(s, in, out, input(1), input(2), input(3));
    std::vector<double> x = to_doubles(args.inputs[0]);
    Shape shape = in;
    for (size_t i = 0; i < in.size(); ++i) {
      const Axis& a = axes[i];
      if (stays(s, a)) continue;
      std::vector<Taps> taps;
      for (int64_t o = 0; o < a.out; ++o) taps.push_back(taps_of(s, a, o));
      const int64_t outer = size_of(Shape(shape.begin(), shape.begin() + i)), inner = size_of(Shape(shape.begin() + i + 1, shape.end()));
      x = resize_axis(x, outer, a.in, inner, taps, s.extrapolation);
      shape[i] = a.out;
    }
    if (is_integer(args.outputs[0].dtype()))  // not beyond the type when a cubic overshoots
      visit_integer(args.outputs[0].dtype(), "resize", [&](auto tag) {
        using T = typename decltype(tag)::type;
        for (double& v : x)
          v = std::clamp(v, static_cast<double>(std::numeric_limits<T>::lowest()), static_cast<double>(std::numeric_limits<T>::max()));
      });
    from_doubles(x, args.outputs[0]);
  };
}

}  // namespace

std::vector<std::vector<ResizeTaps>> resize_taps(const NodeView& node, const std::vector<double>& roi, const std::vector<double>& scales,
                                                 const std::vector<double>& sizes) {
  const Settings s = settings_of(node);
  std::vector<std::vector<ResizeTaps>> all;
  for (const Axis& axis : resolve_axes(s, node.input_shapes[0], node.output_shapes[0], roi, scales, sizes)) {
    all.emplace_back();
    for (int64_t o = 0; o < axis.out && !stays(s, axis); ++o) all.back().push_back(taps_of(s, axis, o));
  }
  return all;
}

KernelList resize_kernels() { return {define("resize", prepare_resize)}; }

}  // namespace tokamak::cpu::ref
