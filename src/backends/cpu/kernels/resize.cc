// Op resize in float32 over the two spatial axes of a rank-4 tensor, nearest and (bi)linear, either layout: kernels "<isa>.resize". Indices
// and weights are tables made once.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/kernels/conv.h"

namespace tokamak::cpu {
namespace {

// The two input coordinates that an output coordinate reads, and their weights.
struct Tap {
  int64_t first = 0, second = 0;
  float first_weight = 1, second_weight = 0;
};

struct ResizeProblem {
  int64_t outer = 1, inner = 1;  // around the spatial axes
  int64_t size[2], out[2];
  double scale[2];
  bool linear = false;
  std::string coordinates, nearest;
  int threads = 1;
};

Support resize_problem(const NodeView& node, ResizeProblem& p) {
  const ir::Attrs& attrs = node.attrs();
  if (node.input_dtypes[0] != DType::F32) return Support::no(fmt::format("input is {}, needs f32", to_string(node.input_dtypes[0])));
  const Shape &x = node.input_shapes[0], &y = node.output_shapes[0];
  if (x.size() != 4) return Support::no(fmt::format("input of rank {}, needs 4", x.size()));
  const std::string mode = attrs.get_string("mode", "nearest");
  if (mode != "nearest" && mode != "linear") return Support::no(fmt::format("mode {}", mode));
  p.linear = mode == "linear";
  p.coordinates = attrs.get_string("coordinate_transformation_mode", "half_pixel");
  p.nearest = attrs.get_string("nearest_mode", "round_prefer_floor");
  if (p.coordinates == "tf_crop_and_resize") return Support::no("tf_crop_and_resize");
  if (attrs.get_bool("antialias", false) || attrs.get_bool("exclude_outside", false)) return Support::no("antialias or exclude_outside");
  if (attrs.get_string("keep_aspect_ratio_policy", "stretch") != "stretch") return Support::no("keep_aspect_ratio_policy");
  double scales[4];
  for (int i = 0; i < 4; ++i) scales[i] = static_cast<double>(y[i]) / static_cast<double>(x[i]);
  if (node.num_inputs() > 2 && node.has_input(2) && num_elements(node.input_shapes[2]) > 0) {
    if (node.constants[2] == nullptr) return Support::no("the scales are not constant");
    ir::Ints axes = attrs.get_ints("axes", {0, 1, 2, 3});
    if (node.constants[2]->count() != static_cast<int64_t>(axes.size())) return Support::no("scales and axes differ in number");
    for (size_t i = 0; i < axes.size(); ++i) {
      const int64_t axis = axes[i] < 0 ? axes[i] + 4 : axes[i];
      if (axis < 0 || axis > 3) return Support::no("an axis outside the rank");
      scales[axis] = node.constants[2]->float_at(static_cast<int64_t>(i));
    }
  }
  // The axes that change decide, whatever the layout says.
  int first = attrs.get_string("layout", "NCHW") == "NHWC" ? 1 : 2;
  const auto fixed = [&](int axis) { return x[axis] == y[axis] && scales[axis] == 1; };
  const auto fits = [&](int from) {
    for (int axis = 0; axis < 4; ++axis)
      if (axis != from && axis != from + 1 && !fixed(axis)) return false;
    return true;
  };
  if (!fits(first)) first = 3 - first;
  if (!fits(first)) return Support::no("other axes than the spatial ones change");
  for (int axis = 0; axis < 4; ++axis) {
    if (x[axis] < 1 || y[axis] < 1) return Support::no("an empty tensor");
    if (axis < first) p.outer *= x[axis];
    if (axis > first + 1) p.inner *= x[axis];
  }
  for (int i = 0; i < 2; ++i) {
    p.size[i] = x[first + i];
    p.out[i] = y[first + i];
    p.scale[i] = scales[first + i];
  }
  p.threads = std::max(1, node.num_threads);
  return Support::yes();
}

// The formulas of ONNX's Resize.
double original_coordinate(const ResizeProblem& p, int axis, double x) {
  const double in = static_cast<double>(p.size[axis]), out = static_cast<double>(p.out[axis]), scale = p.scale[axis], length = scale * in;
  if (scale == 1 && in == out) return x;
  if (p.coordinates == "asymmetric") return x / scale;
  if (p.coordinates == "align_corners") return length == 1 || out == 1 ? 0 : x * (in - 1) / (length - 1);
  if (p.coordinates == "tf_half_pixel_for_nn") return (x + 0.5) / scale;
  if (p.coordinates == "pytorch_half_pixel" && out == 1) return 0;
  const double pixel = (x + 0.5) / scale - 0.5;
  if (p.coordinates == "half_pixel_symmetric") return in / 2 * (1 - out / length) + pixel;
  return pixel;
}

std::vector<Tap> taps(const ResizeProblem& p, int axis) {
  std::vector<Tap> list(p.out[axis]);
  const auto inside = [&](double x) { return std::clamp<int64_t>(static_cast<int64_t>(x), 0, p.size[axis] - 1); };
  for (int64_t o = 0; o < p.out[axis]; ++o) {
    const double x = original_coordinate(p, axis, static_cast<double>(o));
    Tap& tap = list[o];
    if (!p.linear) {
      const double at = p.nearest == "floor"               ? std::floor(x)
                        : p.nearest == "ceil"              ? std::ceil(x)
                        : p.nearest == "round_prefer_ceil" ? std::floor(x + 0.5)
                                                           : std::ceil(x - 0.5);
      tap.first = tap.second = inside(at);
      continue;
    }
    const double base = std::floor(x);
    tap.first = inside(base);
    tap.second = inside(base + 1);
    tap.second_weight = static_cast<float>(x - base);
    tap.first_weight = 1 - tap.second_weight;
    if (tap.second_weight == 0) tap.second = tap.first;
  }
  return list;
}

class ResizeKernel : public Kernel {
 public:
  ResizeKernel(const ResizeProblem& problem, const ConvIsa& isa)
      : p_(problem), isa_(isa), rows_(taps(problem, 0)), cols_(taps(problem, 1)) {}

  void run(const RunArgs& args) const override {
    const float* x = args.inputs[0].data<float>();
    float* y = args.outputs[0].data<float>();
    const int64_t count = p_.outer * p_.out[0];
    conv_parallel(args.pool, p_.threads, count, std::max<int64_t>(1, count / (4 * p_.threads)), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        const Tap& tap = rows_[row % p_.out[0]];
        const float* image = x + row / p_.out[0] * p_.size[0] * p_.size[1] * p_.inner;
        run_row(image + tap.first * p_.size[1] * p_.inner, image + tap.second * p_.size[1] * p_.inner, tap, y + row * p_.out[1] * p_.inner);
      }
    });
  }

 private:
  void run_row(const float* upper, const float* lower, const Tap& row, float* y) const {
    const int64_t inner = p_.inner;
    for (int64_t o = 0; o < p_.out[1]; ++o) {
      const Tap& col = cols_[o];
      if (!p_.linear) {
        if (inner == 1) y[o] = upper[col.first];
        else std::memcpy(y + o * inner, upper + col.first * inner, inner * sizeof(float));
        continue;
      }
      const float w[4] = {row.first_weight * col.first_weight, row.first_weight * col.second_weight, row.second_weight * col.first_weight,
                          row.second_weight * col.second_weight};
      const int64_t a = col.first * inner, b = col.second * inner;
      if (inner == 1) {
        y[o] = w[0] * upper[a] + w[1] * upper[b] + w[2] * lower[a] + w[3] * lower[b];
      } else {
        isa_.blend({upper + a, upper + b, lower + a, lower + b, {w[0], w[1], w[2], w[3]}, y + o * inner, inner});
      }
    }
  }

  ResizeProblem p_;
  const ConvIsa& isa_;
  std::vector<Tap> rows_, cols_;
};

class ResizeDef : public KernelDef {
 public:
  explicit ResizeDef(const ConvIsa& isa) : isa_(isa), name_(fmt::format("{}.resize", isa.name)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return "resize"; }
  Support supports(const NodeView& node) const override {
    if (!conv_isa_present(isa_)) return Support::no(fmt::format("this CPU has no {}", isa_.name));
    ResizeProblem p;
    return resize_problem(node, p);
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    ResizeProblem p;
    if (const Support can = resize_problem(node, p); !can)
      fail(ErrorCode::Unsupported, "[resize \"{}\"] {}", node.node->name, can.reason());
    return std::make_unique<ResizeKernel>(p, isa_);
  }

 private:
  const ConvIsa& isa_;
  std::string name_;
};

}  // namespace

const KernelDef& resize_avx512() {
  static const ResizeDef def(kConvAvx512);
  return def;
}
const KernelDef& resize_avx2() {
  static const ResizeDef def(kConvAvx2);
  return def;
}

}  // namespace tokamak::cpu
