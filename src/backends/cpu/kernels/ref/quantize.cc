// quantize, dequantize and dynamic_quantize. Arithmetic is float32, as ONNX defines it; rounding is half to even.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"
#include "base/small_float.h"

namespace tokamak::cpu::ref {
namespace {

// Which element of `scale` belongs to element i of x: per tensor, per axis or per block along the axis.
struct ScaleIndex {
  int64_t inner = 1, axis_size = 1, block = 0, blocks = 1;
  bool per_tensor = true;

  ScaleIndex(const NodeView& node, const Shape& x, const Shape& scale) {
    per_tensor = size_of(scale) == 1 && node.attrs().get_int("block_size", 0) == 0;
    if (per_tensor) return;
    const int64_t axis = normalize_axis(node.attrs().get_int("axis", 1), static_cast<int64_t>(x.size()));
    inner = size_of(Shape(x.begin() + axis + 1, x.end()));
    axis_size = x[axis];
    block = node.attrs().get_int("block_size", 0);
    if (block > 0) {
      blocks = (axis_size + block - 1) / block;
      if (size_of(x) / std::max<int64_t>(axis_size, 1) * blocks != size_of(scale))
        fail_node(node, ErrorCode::InvalidArgument, "scale {} does not fit x {} in blocks of {}", to_string(scale), to_string(x), block);
    } else if (size_of(scale) != axis_size) {
      fail_node(node, ErrorCode::InvalidArgument, "scale {} does not fit axis {} of x {}", to_string(scale), axis, to_string(x));
    }
  }
  int64_t at(int64_t i) const {
    if (per_tensor) return 0;
    const int64_t k = i / inner % axis_size;
    return block == 0 ? k : (i / inner / axis_size * blocks + k / block) * inner + i % inner;
  }
};

std::pair<double, double> limits_of(DType dtype) {
  const int bits = bits_of(dtype);
  return is_signed_integer(dtype) ? std::pair{-std::ldexp(1.0, bits - 1), std::ldexp(1.0, bits - 1) - 1}
                                  : std::pair{0.0, std::ldexp(1.0, bits) - 1};
}

void store_integer(Tensor& out, int64_t i, int64_t value) {
  if (bits_of(out.dtype()) < 8) return set_code(out, i, static_cast<uint8_t>(value));
  visit_integer(out.dtype(), "quantize", [&](auto tag) {
    using T = typename decltype(tag)::type;
    out.data<T>()[i] = static_cast<T>(value);
  });
}

RunFunction prepare_quantize(const NodeView& node) {
  const ScaleIndex index(node, node.input_shapes[0], node.input_shapes[1]);
  const bool saturate = node.attrs().get_bool("saturate", true), has_zero = node.has_input(2);
  return [=](const RunArgs& args) {
    Tensor& y = args.outputs[0];
    const std::vector<double> x = to_doubles(args.inputs[0]), scale = to_doubles(args.inputs[1]);
    const std::vector<double> zero = has_zero ? to_doubles(args.inputs[2]) : std::vector<double>(scale.size(), 0.0);
    const DType to = y.dtype();
    const auto [lowest, highest] = is_integer(to) ? limits_of(to) : std::pair{0.0, 0.0};
    for (size_t i = 0; i < x.size(); ++i) {
      const int64_t k = index.at(static_cast<int64_t>(i));
      const float ratio = static_cast<float>(x[i]) / static_cast<float>(scale[k]);
      if (is_integer(to)) {
        const double value = std::isnan(ratio) ? zero[k] : std::nearbyint(ratio) + zero[k];
        store_integer(y, static_cast<int64_t>(i), static_cast<int64_t>(std::clamp(value, lowest, highest)));
      } else {
        const uint8_t code = float_to_small_float(to, ratio + static_cast<float>(zero[k]), saturate);
        if (bits_of(to) < 8) set_code(y, static_cast<int64_t>(i), code);
        else y.data<uint8_t>()[i] = code;
      }
    }
  };
}

RunFunction prepare_dequantize(const NodeView& node) {
  const ScaleIndex index(node, node.input_shapes[0], node.input_shapes[1]);
  const bool has_zero = node.has_input(2);
  return [=](const RunArgs& args) {
    const std::vector<double> x = to_doubles(args.inputs[0]), scale = to_doubles(args.inputs[1]);
    const std::vector<double> zero = has_zero ? to_doubles(args.inputs[2]) : std::vector<double>(scale.size(), 0.0);
    visit_float(args.outputs[0].dtype(), "dequantize", [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (size_t i = 0; i < x.size(); ++i) {
        const int64_t k = index.at(static_cast<int64_t>(i));
        args.outputs[0].data<T>()[i] = store<T>(static_cast<float>(x[i] - zero[k]) * static_cast<float>(scale[k]));
      }
    });
  };
}

RunFunction prepare_dynamic_quantize(const NodeView&) {
  return [](const RunArgs& args) {
    const std::vector<double> x = to_doubles(args.inputs[0]);
    float low = 0, high = 0;
    for (double v : x) {
      low = std::min(low, static_cast<float>(v));
      high = std::max(high, static_cast<float>(v));
    }
    const float scale = high == low ? 1.0f : (high - low) / 255.0f;
    const float zero = std::clamp(std::nearbyint((0 - low) / scale), 0.0f, 255.0f);
    for (size_t i = 0; i < x.size(); ++i)
      args.outputs[0].data<uint8_t>()[i] =
          static_cast<uint8_t>(std::clamp(std::nearbyint(static_cast<float>(x[i]) / scale) + zero, 0.0f, 255.0f));
    *args.outputs[1].data<float>() = scale;
    *args.outputs[2].data<uint8_t>() = static_cast<uint8_t>(zero);
  };
}

}  // namespace

KernelList quantize_kernels() {
  return {define("quantize", prepare_quantize), define("dequantize", prepare_dequantize),
          define("dynamic_quantize", prepare_dynamic_quantize)};
}

}  // namespace tokamak::cpu::ref
