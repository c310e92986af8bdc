// Shapes as data, and tensors made from little: shape, size, range, fill, eye_like, onehot.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

RunFunction prepare_shape(const NodeView& node) {
  const Shape in = node.input_shapes[0];
  const int64_t rank = static_cast<int64_t>(in.size());
  int64_t start = node.attrs().get_int("start", 0), end = node.attrs().get_int("end", rank);
  start = std::clamp<int64_t>(start < 0 ? start + rank : start, 0, rank);
  end = std::clamp<int64_t>(end < 0 ? end + rank : end, start, rank);
  return [part = Shape(in.begin() + start, in.begin() + end)](const RunArgs& args) {
    std::copy(part.begin(), part.end(), args.outputs[0].data<int64_t>());
  };
}

RunFunction prepare_size(const NodeView& node) {
  return [count = size_of(node.input_shapes[0])](const RunArgs& args) { *args.outputs[0].data<int64_t>() = count; };
}

RunFunction prepare_range(const NodeView&) {
  return [](const RunArgs& args) {
    visit_number(args.outputs[0].dtype(), "range", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using W = std::conditional_t<kIsFloat<T>, double, int64_t>;
      const W start = static_cast<W>(*args.inputs[0].data<T>()), delta = static_cast<W>(*args.inputs[2].data<T>());
      for (int64_t i = 0; i < args.outputs[0].count(); ++i)
        args.outputs[0].data<T>()[i] = static_cast<T>(static_cast<Compute<T>>(start + static_cast<W>(i) * delta));
    });
  };
}

RunFunction prepare_fill(const NodeView& node) {
  const Tensor value = node.attrs().has("value") ? node.attrs().get_tensor("value") : Tensor::zeros(node.output_dtypes[0], {1});
  const Shape shape = node.output_shapes[0];
  return [value, shape, zeros = std::vector<int64_t>(shape.size(), 0), strides = strides_of(shape)](const RunArgs& args) {
    copy_strided(value, 0, zeros, args.outputs[0], 0, strides, shape);
  };
}

RunFunction prepare_eye_like(const NodeView& node) {
  const Shape shape = node.output_shapes[0];
  const int64_t k = node.attrs().get_int("k", 0);
  return [shape, k](const RunArgs& args) {
    Tensor& y = args.outputs[0];
    std::memset(y.raw(), 0, y.size_bytes());
    for (int64_t r = std::max<int64_t>(0, -k); r < shape[0] && r + k < shape[1]; ++r) {
      const int64_t at = r * shape[1] + r + k;
      if (y.dtype() == DType::Bool) y.data<uint8_t>()[at] = 1;
      else
        visit_number(y.dtype(), "eye_like", [&](auto tag) {
          using T = typename decltype(tag)::type;
          y.data<T>()[at] = store<T>(1);
        });
    }
  };
}

RunFunction prepare_onehot(const NodeView& node) {
  const Shape out = node.output_shapes[0];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", -1), static_cast<int64_t>(out.size()));
  const int64_t depth = out[axis], outer = size_of(Shape(out.begin(), out.begin() + axis)),
                inner = size_of(Shape(out.begin() + axis + 1, out.end()));
  return [=, zeros = std::vector<int64_t>(out.size(), 0), strides = strides_of(out)](const RunArgs& args) {
    const Indices indices(args.inputs[0]);
    copy_strided(args.inputs[2], 0, zeros, args.outputs[0], 0, strides, out);
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t i = 0; i < inner; ++i) {
        int64_t index = indices[o * inner + i];
        if (index < 0) index += depth;
        if (index >= 0 && index < depth)
          copy_element(args.inputs[2], 1, args.outputs[0], (o * depth + index) * inner + i);  // outside: all off
      }
  };
}

}  // namespace

KernelList shape_kernels() {
  return {define("shape", prepare_shape), define("size", prepare_size),         define("range", prepare_range),
          define("fill", prepare_fill),   define("eye_like", prepare_eye_like), define("onehot", prepare_onehot)};
}

}  // namespace tokamak::cpu::ref
