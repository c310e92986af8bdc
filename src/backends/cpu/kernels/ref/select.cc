// where and clip.

#include <limits>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

RunFunction prepare_where(const NodeView& node) {
  const Shape shape = node.output_shapes[0];
  const std::array<std::vector<int64_t>, 4> strides{broadcast_strides(node.input_shapes[0], shape),
                                                    broadcast_strides(node.input_shapes[1], shape),
                                                    broadcast_strides(node.input_shapes[2], shape), strides_of(shape)};
  return [shape, strides](const RunArgs& args) {
    const uint8_t* condition = args.inputs[0].data<uint8_t>();
    const DType dtype = args.outputs[0].dtype();
    if (dtype == DType::String || bits_of(dtype) < 8) {
      for_each_row(shape, strides, [&](const auto& at, const auto& step, int64_t count) {
        for (int64_t i = 0; i < count; ++i) {
          const int which = condition[at[0] + i * step[0]] ? 1 : 2;
          copy_element(args.inputs[which], at[which] + i * step[which], args.outputs[0], at[3] + i * step[3]);
        }
      });
      return;
    }
    visit_bytes(bits_of(dtype), [&](auto tag) {
      using T = typename decltype(tag)::type;
      for_each_row(shape, strides, [&](const auto& at, const auto& step, int64_t count) {
        const T* a = args.inputs[1].data<T>() + at[1];
        const T* b = args.inputs[2].data<T>() + at[2];
        T* y = args.outputs[0].data<T>() + at[3];
        for (int64_t i = 0; i < count; ++i) y[i * step[3]] = condition[at[0] + i * step[0]] ? a[i * step[1]] : b[i * step[2]];
      });
    });
  };
}

RunFunction prepare_clip(const NodeView& node) {
  const bool has_lo = node.has_input(1), has_hi = node.has_input(2);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double lo = node.attrs().get_float("min", -kInfinity), hi = node.attrs().get_float("max", kInfinity);
  return [=](const RunArgs& args) {
    visit_number(args.inputs[0].dtype(), "clip", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using W = Accumulator<T>;
      const auto bound = [&](bool from_input, int input, double attribute, W none) -> W {
        if (from_input) return static_cast<W>(*args.inputs[input].data<T>());
        return std::isinf(attribute) ? none : static_cast<W>(attribute);
      };
      const W low = bound(has_lo, 1, lo, kIsFloat<T> ? -std::numeric_limits<W>::infinity() : std::numeric_limits<W>::lowest());
      const W high = bound(has_hi, 2, hi, kIsFloat<T> ? std::numeric_limits<W>::infinity() : std::numeric_limits<W>::max());
      const T* x = args.inputs[0].data<T>();
      T* y = args.outputs[0].data<T>();
      for (int64_t i = 0; i < args.outputs[0].count(); ++i) {
        const W v = static_cast<W>(x[i]);
        const W clipped = v < low ? low : v;  // NaN stays
        y[i] = static_cast<T>(clipped > high ? high : clipped);
      }
    });
  };
}

}  // namespace

KernelList select_kernels() { return {define("where", prepare_where, kInPlace), define("clip", prepare_clip, kInPlace)}; }

}  // namespace tokamak::cpu::ref
