// scatter_elements and scatter_nd: a copy of the data with some elements replaced or combined. Updates apply in order.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

enum class Reduction { None, Add, Mul, Min, Max };

Reduction reduction_of(const NodeView& node) {
  const std::string text = node.attrs().get_string("reduction", "none");
  if (text == "none") return Reduction::None;
  if (text == "add") return Reduction::Add;
  if (text == "mul") return Reduction::Mul;
  if (text == "min") return Reduction::Min;
  if (text == "max") return Reduction::Max;
  fail_node(node, ErrorCode::Unsupported, "reduction \"{}\"; expected none, add, mul, min or max", text);
}

// Combines `count` consecutive elements of `updates` into `out`.
void combine(Reduction reduction, const Tensor& updates, int64_t u, Tensor& out, int64_t o, int64_t count) {
  if (reduction == Reduction::None) return copy_block(updates, u, out, o, count);
  const auto apply = [&](auto tag) {
    using T = typename decltype(tag)::type;
    using W = Compute<T>;
    for (int64_t k = 0; k < count; ++k) {
      const W a = static_cast<W>(out.data<T>()[o + k]), b = static_cast<W>(updates.data<T>()[u + k]);
      W y = a;
      if (reduction == Reduction::Add) y = static_cast<W>(a + b);
      else if (reduction == Reduction::Mul) y = static_cast<W>(a * b);
      else if (reduction == Reduction::Min) y = std::min(a, b);
      else y = std::max(a, b);
      out.data<T>()[o + k] = static_cast<T>(y);
    }
  };
  if (out.dtype() == DType::Bool) apply(Tag<bool>{});
  else visit_number(out.dtype(), "scatter reduction", apply);
}

int64_t checked_index(int64_t index, int64_t bound, const std::string& label) {
  if (index < -bound || index >= bound) fail(ErrorCode::OutOfRange, "{} index {} is outside an axis of {}", label, index, bound);
  return index < 0 ? index + bound : index;
}

RunFunction prepare_scatter_elements(const NodeView& node) {
  const Shape data = node.input_shapes[0], shape = node.input_shapes[1];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", 0), static_cast<int64_t>(data.size()));
  std::vector<int64_t> strides = strides_of(data);
  const int64_t step = strides.empty() ? 0 : strides[axis], bound = data.empty() ? 1 : data[axis];
  if (!strides.empty()) strides[axis] = 0;
  const Reduction reduction = reduction_of(node);
  const std::string label = label_of(node);
  const std::array<std::vector<int64_t>, 2> walk{strides, strides_of(shape)};
  return [=](const RunArgs& args) {
    copy_all(args.inputs[0], args.outputs[0]);
    const Indices indices(args.inputs[1]);
    for_each_row(shape, walk, [&](const auto& at, const auto& s, int64_t count) {
      for (int64_t k = 0; k < count; ++k) {
        const int64_t u = at[1] + k * s[1];
        combine(reduction, args.inputs[2], u, args.outputs[0], at[0] + k * s[0] + checked_index(indices[u], bound, label) * step, 1);
      }
    });
  };
}

RunFunction prepare_scatter_nd(const NodeView& node) {
  const Shape data = node.input_shapes[0], index_shape = node.input_shapes[1];
  const int64_t depth = index_shape.back();
  if (depth > static_cast<int64_t>(data.size()))
    fail_node(node, ErrorCode::InvalidArgument, "indices {} address more axes than {} has", to_string(index_shape), to_string(data));
  const std::vector<int64_t> strides = strides_of(data);
  const int64_t inner = size_of(Shape(data.begin() + depth, data.end())),
                tuples = size_of(Shape(index_shape.begin(), index_shape.end() - 1));
  const Reduction reduction = reduction_of(node);
  const std::string label = label_of(node);
  return [=](const RunArgs& args) {
    copy_all(args.inputs[0], args.outputs[0]);
    const Indices indices(args.inputs[1]);
    for (int64_t t = 0; t < tuples; ++t) {
      int64_t offset = 0;
      for (int64_t d = 0; d < depth; ++d) offset += checked_index(indices[t * depth + d], data[d], label) * strides[d];
      combine(reduction, args.inputs[2], t * inner, args.outputs[0], offset, inner);
    }
  };
}

}  // namespace

KernelList scatter_kernels() { return {define("scatter_elements", prepare_scatter_elements), define("scatter_nd", prepare_scatter_nd)}; }

}  // namespace tokamak::cpu::ref
